"""The write-ahead log stays short."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
from metamorphd.store.database import Transaction
from metamorphd.store.sqlite import gate, log
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.gate import Gate

from tests.store.sqlite.writer import COUNTING
from tests.support.rows import ACME, EVIL, new_session
from tests.support.serving import Serving

SCALE = 64
WRITES = 60
LARGE = "x" * 30_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every limit of the log a 64th of itself, so that it is reached quickly."""
    for name in ("COPY_BYTES", "EMPTY_BYTES", "FULL_BYTES"):
        monkeypatch.setattr(log, name, getattr(log, name) // SCALE)
    for name in ("RETRY_SECONDS", "SHARED_SECONDS"):
        monkeypatch.setattr(log, name, 0)


async def snapshot(tx: Transaction, *, seconds: float) -> None:
    await tx.one("SELECT COUNT(*) AS count FROM sessions WHERE vault_id = :vault_id")
    time.sleep(seconds)  # noqa: ASYNC251, an operation keeps its reader


@asynccontextmanager
async def overlapping_reads(database: SqliteDatabase) -> AsyncIterator[None]:
    """Keeps at least one snapshot open at any time, by two readers that take turns."""

    async def read_forever(delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            await database.read(snapshot, EVIL, seconds=0.03)

    readers = [asyncio.create_task(read_forever(delay)) for delay in (0, 0.015)]
    yield
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def largest_log(database: SqliteDatabase, path: Path) -> int:
    """Writes two megabytes, and returns the largest size of the log in between."""
    # What the migrations wrote is not cut before the first write.
    await new_session(database)
    largest = 0
    for _ in range(WRITES):
        await new_session(database, system_prompt=LARGE)
        largest = max(largest, path.stat().st_size)
    return largest


async def test_overlapping_reads_do_not_make_the_log_grow(database: SqliteDatabase, tmp_path: Path) -> None:
    async with overlapping_reads(database):
        largest = await largest_log(database, tmp_path / "metamorph.db-wal")
    assert log.COPY_BYTES < largest < log.FULL_BYTES + 4 * len(LARGE)


async def test_without_the_gate_overlapping_reads_make_the_log_grow(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mutant: snapshots are neither kept away nor counted.
    monkeypatch.setattr(gate.Gate, "_is_empty", lambda _: True)
    monkeypatch.setattr(log, "BUSY_MILLISECONDS", 0)
    async with overlapping_reads(database):
        largest = await largest_log(database, tmp_path / "metamorph.db-wal")
    assert largest > 2 * log.FULL_BYTES


async def test_no_commit_copies_the_log(database: SqliteDatabase, tmp_path: Path) -> None:
    path = tmp_path / "metamorph.db"
    size = path.stat().st_size
    limit = log.COPY_BYTES - 2 * len(LARGE)
    while (tmp_path / "metamorph.db-wal").stat().st_size < limit:
        await new_session(database, system_prompt=LARGE)
    assert path.stat().st_size == size


async def test_the_log_is_emptied_after_a_while_however_little_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "TRUNCATE_SECONDS", 0.1)
    path = tmp_path / "metamorph.db-wal"
    async with SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="FULL") as database:
        # It may be emptied between a commit and the look at it.
        for _ in range(100):
            await new_session(database)
            if path.stat().st_size:
                break
        else:
            pytest.fail("the log was never seen with anything in it")
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not path.stat().st_size:
                break
        assert not path.stat().st_size


async def test_a_long_read_is_run_again_when_the_log_must_be_emptied(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PATIENCE_SECONDS", 0.01)
    runs: list[None] = []
    begun = threading.Event()

    async def counts(tx: Transaction) -> int:
        runs.append(None)
        begun.set()
        row = await tx.one(COUNTING + f"SELECT COUNT(*) AS count FROM (SELECT i FROM n LIMIT {length})")  # noqa: S608
        return int(row.count) if row else -1

    length = 1_000_000
    reading = asyncio.create_task(database.read(counts, ACME))
    await asyncio.to_thread(begun.wait, 5)

    def close() -> int:
        with database._readers._gate.closed(hurry=True) as alone:
            assert alone
            return len(runs)

    assert await asyncio.to_thread(close) == 1
    assert await reading == length
    assert len(runs) == 2


async def test_a_snapshot_that_is_not_ours_does_not_stop_writes(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BUSY_MILLISECONDS", 0)
    other = apsw.Connection(str(tmp_path / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
    other.execute("BEGIN")
    other.execute("SELECT COUNT(*) FROM sessions").fetchall()
    assert await largest_log(database, tmp_path / "metamorph.db-wal") > log.FULL_BYTES
    other.close()
    assert await largest_log(database, tmp_path / "metamorph.db-wal")
    assert (tmp_path / "metamorph.db-wal").stat().st_size < log.FULL_BYTES + 4 * len(LARGE)


async def test_a_full_log_that_cannot_be_emptied_is_not_tried_again_at_once(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BUSY_MILLISECONDS", 0)
    for name in ("RETRY_SECONDS", "SHARED_SECONDS"):
        monkeypatch.setattr(log, name, 0.5)
    monkeypatch.setattr(log, "EMPTY_BYTES", 1 << 40)
    await asyncio.sleep(log.RETRY_SECONDS)
    closings: list[bool] = []
    closed = Gate.closed

    def counted(self: Gate, *, hurry: bool) -> Any:
        closings.append(hurry)
        return closed(self, hurry=hurry)

    monkeypatch.setattr(Gate, "closed", counted)
    other = apsw.Connection(str(tmp_path / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
    other.execute("BEGIN")
    other.execute("SELECT COUNT(*) FROM sessions").fetchall()
    began = time.monotonic()
    assert await largest_log(database, tmp_path / "metamorph.db-wal") > log.FULL_BYTES
    other.close()
    assert 1 <= len(closings) <= 1 + (time.monotonic() - began) / log.RETRY_SECONDS
    # What is in the way is another program's, as Litestream's: our own readers are asked to stop only once.
    assert closings == [True] + [False] * (len(closings) - 1)


async def test_another_programs_snapshot_is_waited_for_once(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BUSY_MILLISECONDS", 700)
    other = apsw.Connection(str(tmp_path / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
    other.execute("BEGIN")
    other.execute("SELECT COUNT(*) FROM sessions").fetchall()
    slow = 0
    for _ in range(WRITES):
        began = time.monotonic()
        await new_session(database, system_prompt=LARGE)
        slow += time.monotonic() - began > log.BUSY_MILLISECONDS / 2000
    other.close()
    assert slow == 1
    # Once it is gone, the log is emptied as ever.
    assert await largest_log(database, tmp_path / "metamorph.db-wal")
    assert (tmp_path / "metamorph.db-wal").stat().st_size < log.FULL_BYTES + 4 * len(LARGE)


async def test_a_log_that_cannot_be_emptied_yet_does_not_close_the_gate_after_every_commit(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PATIENCE_SECONDS", 0.001)
    monkeypatch.setattr(log, "FULL_BYTES", 1 << 30)
    closings: list[bool] = []
    closed = Gate.closed

    def counted(self: Gate, *, hurry: bool) -> Any:
        closings.append(hurry)
        return closed(self, hurry=hurry)

    monkeypatch.setattr(Gate, "closed", counted)
    reading = asyncio.create_task(database.read(snapshot, EVIL, seconds=1.5))
    await asyncio.sleep(0.1)
    for _ in range(40):
        await new_session(database, title=LARGE)
        await asyncio.sleep(0.01)
    await reading
    assert 1 <= len(closings) <= 4
    assert not any(closings)


async def test_the_size_of_the_log_is_a_metric(running: Serving) -> None:
    async with httpx.AsyncClient(base_url=running.http) as http:
        text = (await http.get("/metrics")).text
    values: dict[str, Any] = dict(line.split(" ") for line in text.splitlines() if line.startswith("metamorph_wal_"))
    assert float(values["metamorph_wal_bytes"]) > 0
