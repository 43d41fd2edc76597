"""The database: where operations run, and its guarantees to them."""

import asyncio
import gc
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from metamorphd.errors import SessionNotFound, StartupRefused, StoreBusy, StoreNotReady
from metamorphd.store.database import Transaction
from metamorphd.store.sessions import get_session
from metamorphd.store.sqlite import writer
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.migrate import APPLICATION_ID

from tests.store.sqlite.writer import Commits, hold_writer
from tests.support.rows import ACME, new_session, scope_of


def at(path: Path) -> SqliteDatabase:
    return SqliteDatabase(path=path, synchronous="FULL")


async def pragma(tx: Transaction, *, name: str) -> Any:
    # The column names of pragmas follow no rule.
    row: Any = await tx.one(f"PRAGMA {name}")
    return row and row[0]


async def test_the_pragmas_from_the_guide_are_set_with_full_synchronous(database: SqliteDatabase) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "cache_size": -64000, "foreign_keys": 1, "busy_timeout": 5000}
    assert {name: await database.write(pragma, ACME, name=name) for name in expected} == expected
    assert await database.write(pragma, ACME, name="application_id") == APPLICATION_ID


async def test_columns_have_names_whenever_garbage_is_collected(database: SqliteDatabase) -> None:
    columns = ", ".join(f"{number} AS c{number}" for number in range(20))

    async def read(tx: Transaction, *, statement: int) -> Any:
        row: Any = await tx.one(f"SELECT {columns}, {statement} AS statement")
        return row and (row.c19, row.statement)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for statement in range(1000):
            assert await database.read(read, ACME, statement=statement) == (19, statement)
    finally:
        gc.set_threshold(*thresholds)


async def test_readers_cannot_write(database: SqliteDatabase) -> None:
    async def write(tx: Transaction) -> None:
        await tx.run("DELETE FROM sessions WHERE vault_id = :vault_id")

    with pytest.raises(Exception, match="readonly"):
        await database.read(write, ACME)


async def test_synchronous_may_be_set_to_normal_as_in_the_guide(tmp_path: Path) -> None:
    database = SqliteDatabase(path=tmp_path / "normal.db", synchronous="NORMAL")
    await database.__aenter__()
    assert await database.write(pragma, ACME, name="synchronous") == 1
    await database.__aexit__()


async def test_calls_before_open_and_after_close_are_refused(tmp_path: Path) -> None:
    database = at(tmp_path / "metamorph.db")
    for call in (database.write, database.read):
        with pytest.raises(StoreNotReady):
            await call(get_session, ACME, session_id="ses_1")
    await database.__aenter__()
    await database.__aexit__()
    with pytest.raises(StoreNotReady):
        await database.write(get_session, ACME, session_id="ses_1")


async def test_a_second_server_on_the_same_file_is_refused(database: SqliteDatabase, tmp_path: Path) -> None:
    second = at(tmp_path / "metamorph.db")
    with pytest.raises(StartupRefused, match="in use by another server"):
        await second.__aenter__()


async def test_a_reopened_file_has_the_rows_that_were_written(tmp_path: Path) -> None:
    first = at(tmp_path / "metamorph.db")
    await first.__aenter__()
    session = await new_session(first)
    await first.__aexit__()
    again = at(tmp_path / "metamorph.db")
    await again.__aenter__()
    assert await again.read(get_session, ACME, session_id=session.session_id) == session
    await again.__aexit__()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metamorph.db"
    database = at(path)
    await database.__aenter__()
    await database.__aexit__()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StartupRefused, match="newer server"):
        await at(path).__aenter__()


async def test_the_database_of_another_program_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(StartupRefused, match="another program"):
        await at(path).__aenter__()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    connection.close()


async def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("no database at all, but long enough to be read as one\n" * 100)
    with pytest.raises(StartupRefused, match="cannot be opened"):
        await at(path).__aenter__()


async def test_an_operation_that_awaits_anything_else_fails(database: SqliteDatabase) -> None:
    async def sleeps(tx: Transaction) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaited something other than its transaction"):
        await database.write(sleeps, ACME)
    assert (await new_session(database)).message_count == 0


async def test_an_operation_that_raises_is_rolled_back_while_its_batch_commits(database: SqliteDatabase) -> None:
    async def creates_and_raises(tx: Transaction) -> None:
        await tx.run(
            "INSERT INTO vaults (vault_id, display_name, default_model, system_prompt, hash_key, revision, create_time,"
            " update_time) VALUES (:vault_id, '', '', '', x'00', 1, 0, 0)"
        )
        raise SessionNotFound(session_id="ses_1")

    release = hold_writer(database)
    failing = asyncio.create_task(database.write(creates_and_raises, scope_of("ghost")))
    sessions = [asyncio.create_task(new_session(database)) for _ in range(20)]
    await asyncio.sleep(0.05)
    release.set()
    with pytest.raises(SessionNotFound):
        await failing
    assert len(await asyncio.gather(*sessions)) == 20
    assert await database.read(count_vaults, scope_of("ghost")) == 0


async def count_vaults(tx: Transaction) -> int:
    row = await tx.one("SELECT COUNT(*) AS vaults FROM vaults WHERE vault_id = :vault_id")
    return int(row.vaults) if row else -1


async def test_queued_writes_are_committed_together(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_SECONDS", 10)
    await new_session(database)
    commits = Commits(database)
    release = hold_writer(database)
    await asyncio.sleep(0.05)
    sessions = [asyncio.create_task(new_session(database)) for _ in range(100)]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(*sessions)
    assert commits.count <= 3


async def test_a_write_to_a_full_queue_is_refused_immediately(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer, "WRITE_QUEUE", 11)
    small = at(tmp_path / "small.db")
    await small.__aenter__()
    release = hold_writer(small)
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(new_session(small)) for _ in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(StoreBusy) as refusal:
        await new_session(small)
    assert refusal.value.retry_delay
    release.set()
    assert len(await asyncio.gather(*waiting)) == 10
    await small.__aexit__()


async def test_close_finishes_pending_writes(tmp_path: Path) -> None:
    database = at(tmp_path / "metamorph.db")
    await database.__aenter__()
    release = hold_writer(database)
    waiting = [asyncio.create_task(new_session(database)) for _ in range(10)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(database.__aexit__())
    release.set()
    await closing
    assert len(await asyncio.gather(*waiting)) == 10


async def test_a_cancelled_write_still_commits(database: SqliteDatabase) -> None:
    release = hold_writer(database)
    write = asyncio.create_task(new_session(database, session_id="ses_kept"))
    await asyncio.sleep(0.05)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    release.set()
    await new_session(database)
    assert await database.read(get_session, ACME, session_id="ses_kept")


async def test_all_statements_of_a_read_see_one_snapshot(database: SqliteDatabase) -> None:
    loop = asyncio.get_running_loop()

    async def counts_twice(tx: Transaction) -> tuple[int, int]:
        before = await count_vaults(tx)
        write: Coroutine[Any, Any, Any] = new_session(database)
        asyncio.run_coroutine_threadsafe(write, loop).result(10)
        return before, await count_vaults(tx)

    assert await database.read(counts_twice, ACME) == (0, 0)
    assert await database.read(count_vaults, ACME) == 1
