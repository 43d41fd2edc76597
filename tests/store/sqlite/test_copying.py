"""Copies of a database that is in use."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from metamorphd.errors import OperationTimeout, StorageFull, StoreBusy, StoreNotReady
from metamorphd.store.database import Transaction
from metamorphd.store.sqlite import copying, writer
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.inspection import inspect
from metamorphd.store.sqlite.space import Space

from tests.store.sqlite.conftest import MEGABYTES
from tests.support.rows import ACME, new_session

SESSIONS = 300


class Refused(Exception):
    pass


async def change_and_fail(tx: Transaction) -> None:
    """Changes something, and raises then, as an operation that finds out late."""
    await tx.run("UPDATE sessions SET title = 'changed' WHERE vault_id = :vault_id")
    raise Refused


async def change_without_end(tx: Transaction) -> None:
    """Changes something, and then more than there is time for: SQLite rolls back the transaction."""
    await tx.run("UPDATE sessions SET title = 'changed' WHERE vault_id = :vault_id")
    await tx.run(
        "UPDATE sessions SET title = (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT MAX(i) FROM n) WHERE vault_id = :vault_id"
    )


async def get_cache_size(tx: Transaction) -> int:
    row = await tx.one("PRAGMA cache_size")
    assert row is not None
    return int(row.cache_size)


async def stored(database: SqliteDatabase, count: int = SESSIONS) -> None:
    await asyncio.gather(*(new_session(database, system_prompt="x" * 4000) for _ in range(count)))


async def begun(database: SqliteDatabase, path: Path) -> "asyncio.Task[None]":
    """Returns a copy that is being made."""
    copied = threading.Event()
    copy = asyncio.create_task(database.copy(path, progress=lambda _: copied.set()))
    await asyncio.to_thread(copied.wait)
    return copy


def ignored(_: float) -> None:
    pass


def titles(path: Path) -> set[str]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {str(title) for (title,) in connection.execute("SELECT title FROM sessions").fetchall()}
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a copy take many steps, between which others write."""
    monkeypatch.setattr(copying, "FEWEST", 1)
    monkeypatch.setattr(copying, "MOST", 4)


async def test_a_copy_has_all_that_was_acknowledged_before_it_began(database: SqliteDatabase, tmp_path: Path) -> None:
    await stored(database)
    acknowledged = {(await new_session(database, title=f"Before {number}")).title for number in range(20)}
    copied, beside = tmp_path / "copy.db", 0
    running = asyncio.create_task(database.copy(copied, progress=ignored))
    while not running.done():
        await new_session(database, title=f"Beside {beside}")
        beside += 1
    await running
    inspection = inspect(copied)
    assert inspection.faults == ()
    assert beside > 50
    found = titles(copied)
    assert acknowledged <= found
    # It has the state of its end: without gaps, what was stored in order is there in order.
    in_copy = sum(title.startswith("Beside") for title in found)
    assert {f"Beside {number}" for number in range(in_copy)} <= found
    assert in_copy > beside / 2
    assert sorted(path.name for path in tmp_path.glob("copy.db*")) == ["copy.db"]


async def test_operations_that_fail_do_not_begin_it_anew(database: SqliteDatabase, tmp_path: Path) -> None:
    await stored(database)
    shares: list[float] = []
    running = asyncio.create_task(database.copy(tmp_path / "copy.db", progress=shares.append))
    failed = 0
    while not running.done():
        with pytest.raises(Refused):
            await database.write(change_and_fail, ACME)
        failed += 1
    await running
    assert failed > 20
    assert shares == sorted(shares)
    assert "changed" not in titles(tmp_path / "copy.db")
    assert inspect(tmp_path / "copy.db").faults == ()
    assert not database._writer.isolating


async def test_it_begins_anew_after_operations_that_are_stopped_and_gives_up(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(database)
    monkeypatch.setattr(writer, "JOB_SECONDS", 0.02)

    async def stopped_while(copy: "asyncio.Task[None]", times: int) -> None:
        for _ in range(times):
            if not copy.done():
                with pytest.raises(OperationTimeout):
                    await database.write(change_without_end, ACME)

    once = await begun(database, tmp_path / "copy.db")
    await stopped_while(once, 2)
    await once
    assert inspect(tmp_path / "copy.db").faults == ()
    for_ever = await begun(database, tmp_path / "other.db")
    await stopped_while(for_ever, 1_000)
    with pytest.raises(StoreBusy):
        await for_ever
    assert not (tmp_path / "other.db").exists()


async def test_it_ends_with_the_database_and_leaves_no_file(tmp_path: Path) -> None:
    async with SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="NORMAL") as database:
        await stored(database)
        running = await begun(database, tmp_path / "copy.db")
    with pytest.raises(StoreNotReady):
        await running
    assert list(tmp_path.glob("copy.db*")) == []


async def test_cancelled_it_leaves_no_file(database: SqliteDatabase, tmp_path: Path) -> None:
    await stored(database)
    running = await begun(database, tmp_path / "copy.db")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert list(tmp_path.glob("copy.db*")) == []
    assert not database._writer.isolating


async def test_the_writer_has_its_cache_back(database: SqliteDatabase, tmp_path: Path) -> None:
    before = await database.write(get_cache_size, ACME)
    await stored(database)
    await database.copy(tmp_path / "copy.db", progress=ignored)
    assert await database.write(get_cache_size, ACME) == before
    copy = await begun(database, tmp_path / "another.db")
    assert await database.write(get_cache_size, ACME) == -copying.WRITER_CACHE_KIB
    copy.cancel()
    await asyncio.wait({copy})
    assert await database.write(get_cache_size, ACME) == before


async def test_the_writer_has_its_cache_back_if_the_copy_cannot_begin(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[apsw.Cursor] = []

    def read(connection: apsw.Connection) -> None:
        """Begins to read, without end. A destination that is in use is refused."""
        endless = (
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT name FROM n LEFT JOIN sqlite_schema"
        )
        reads.append(connection.execute(endless))

    before = await database.write(get_cache_size, ACME)
    monkeypatch.setattr(apsw, "connection_hooks", [read])
    with pytest.raises(apsw.Error, match="in use"):
        await database.copy(tmp_path / "copy.db", progress=ignored)
    assert len(reads) == 1
    assert not (tmp_path / "copy.db").exists()
    assert await database.write(get_cache_size, ACME) == before
    assert not database._writer.isolating


async def test_a_full_volume_ends_it(database: SqliteDatabase, volume: Path) -> None:
    await stored(database, 100)
    filler = volume / "filler"
    with filler.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, MEGABYTES * 2**20 - 300_000)
    with pytest.raises(StorageFull):
        await database.copy(volume / "copy.db", progress=ignored)
    assert [path.name for path in volume.iterdir()] == ["filler"]
    # Nor is the space used up that the floor keeps free.
    database._space = Space(volume / "metamorph.db", floor_bytes=MEGABYTES * 2**20)
    filler.unlink()
    with pytest.raises(StorageFull):
        await database.copy(volume / "copy.db", progress=ignored)
    database._space = Space(volume / "metamorph.db", floor_bytes=0)
    # Nothing is wrong with the database.
    await new_session(database)
    await database.copy(volume / "copy.db", progress=ignored)
    assert inspect(volume / "copy.db").row_counts["sessions"] == 101


async def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "text": (b"Hello", "cannot be read"),
        "empty": (b"", "not a database of this server"),
    }
    for name, (content, fault) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert fault in inspect(file).faults[0]
    other: Any = apsw.Connection(str(tmp_path / "other"))
    other.execute("CREATE TABLE t (x)").fetchall()
    other.close()
    assert inspect(tmp_path / "other").faults == ("it is not a database of this server",)


async def test_damage_is_found(database: SqliteDatabase, tmp_path: Path) -> None:
    await stored(database, 50)
    await database.copy(tmp_path / "copy.db", progress=ignored)
    content = bytearray((tmp_path / "copy.db").read_bytes())
    content[8192:8300] = bytes(108)
    (tmp_path / "copy.db").write_bytes(content)
    assert inspect(tmp_path / "copy.db").faults
