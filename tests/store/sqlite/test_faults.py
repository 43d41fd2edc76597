"""A full disk and a failing COMMIT in mid-batch: acknowledged writes are stored, refused ones are not."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from metamorphd.errors import SessionNotFound, StorageFull
from metamorphd.models.session import Session
from metamorphd.store.sessions import get_session
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.writer import Job, Writer

from tests.store.sqlite.faulty_vfs import FaultyVFS
from tests.store.sqlite.writer import hold_writer
from tests.support.rows import ACME, new_session

Break = Callable[[FaultyVFS], None]


def full_at_once(vfs: FaultyVFS) -> None:
    vfs.log_limit = 0


def full_in_mid_batch(vfs: FaultyVFS) -> None:
    vfs.log_limit = vfs.log_size + 80_000


def one_failing_commit(vfs: FaultyVFS) -> None:
    vfs.failing_syncs = 1


def many_failing_commits(vfs: FaultyVFS) -> None:
    vfs.failing_syncs = 12


class CarelessWriter(Writer):
    """A mutant that acknowledges each job without waiting for the outcome of the transaction."""

    def _run_batch(self) -> list[Job]:
        jobs: list[Job] = []
        self.connection.execute("BEGIN IMMEDIATE")
        for job in self._batch(jobs):
            self._run_job(job, isolated=True)
        try:
            self.connection.execute("COMMIT")
        except apsw.Error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        return jobs


class Careless(SqliteDatabase):
    writer_class = CarelessWriter


async def outcomes(
    database_class: type[SqliteDatabase], directory: Path, break_disk: Break
) -> tuple[int, int, int, int]:
    """Returns (answered, refused, lost, ghosts) for a batch of 60 sessions during which the disk fails.

    Counted after a restart: lost sessions were answered but not stored, ghosts refused but stored. Some sessions are
    large, so that pages spill.
    """
    vfs = FaultyVFS(uuid.uuid4().hex)
    database = database_class(path=directory / "faulty.db", synchronous="FULL", vfs=vfs.name)
    await database.__aenter__()
    await new_session(database)
    release = hold_writer(database)
    await asyncio.sleep(0.05)
    ids = [f"ses_{number}" for number in range(60)]
    writes: list[asyncio.Task[Session]] = [
        asyncio.create_task(
            new_session(database, session_id=name, system_prompt="x" * (90_000 if number % 5 == 0 else 10))
        )
        for number, name in enumerate(ids)
    ]
    await asyncio.sleep(0.05)
    break_disk(vfs)
    release.set()
    results: list[Any] = await asyncio.gather(*writes, return_exceptions=True)
    vfs.log_limit, vfs.failing_syncs = None, 0
    await new_session(database, session_id="ses_after")
    await database.__aexit__()
    answered = {name for name, result in zip(ids, results, strict=True) if isinstance(result, Session)}
    stored = await sessions_of(directory / "faulty.db", [*ids, "ses_after"])
    assert "ses_after" in stored
    return len(answered), len(ids) - len(answered), len(answered - stored), len(stored - answered - {"ses_after"})


async def sessions_of(path: Path, ids: Sequence[str]) -> set[str]:
    database = SqliteDatabase(path=path, synchronous="FULL")
    await database.__aenter__()
    stored = set()
    for session_id in ids:
        try:
            stored.add((await database.read(get_session, ACME, session_id=session_id)).session_id)
        except SessionNotFound:
            continue
    await database.__aexit__()
    return stored


@pytest.mark.parametrize("break_disk", [full_at_once, full_in_mid_batch, one_failing_commit, many_failing_commits])
async def test_no_answered_write_is_lost_and_no_refused_write_is_stored(tmp_path: Path, break_disk: Break) -> None:
    _, _, lost, ghosts = await outcomes(SqliteDatabase, tmp_path, break_disk)
    assert (lost, ghosts) == (0, 0)


async def test_a_commit_that_fails_once_is_not_noticed_by_callers(tmp_path: Path) -> None:
    assert await outcomes(SqliteDatabase, tmp_path, one_failing_commit) == (60, 0, 0, 0)


async def test_small_writes_succeed_when_the_disk_is_too_full_for_large_ones(tmp_path: Path) -> None:
    answered, refused, _, _ = await outcomes(SqliteDatabase, tmp_path, full_in_mid_batch)
    assert answered > 0
    assert refused > 0


@pytest.mark.parametrize("break_disk", [full_at_once, one_failing_commit])
async def test_a_store_that_ignores_the_outcome_of_the_transaction_is_detected(
    tmp_path: Path, break_disk: Break
) -> None:
    _, _, lost, _ = await outcomes(Careless, tmp_path, break_disk)
    assert lost > 0


async def test_a_full_disk_is_reported_as_storage_full_and_reads_continue(tmp_path: Path) -> None:
    vfs = FaultyVFS(uuid.uuid4().hex)
    database = SqliteDatabase(path=tmp_path / "full.db", synchronous="FULL", vfs=vfs.name)
    await database.__aenter__()
    session = await new_session(database)
    vfs.log_limit = 0
    with pytest.raises(StorageFull):
        await new_session(database)
    assert await database.read(get_session, ACME, session_id=session.session_id) == session
    vfs.log_limit = None
    await new_session(database)
    await database.__aexit__()
