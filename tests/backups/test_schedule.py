"""Backups that nobody asks for: when they are made, verified again and deleted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metamorphd.audit.stamping import NoStamping
from metamorphd.backups import backups as room
from metamorphd.backups.backups import HOUR, RETRY_SECONDS, Backups
from metamorphd.backups.directory import DAY, Directory, name_at
from metamorphd.errors import StoreBusy
from metamorphd.models.backup import Backup, BackupState
from metamorphd.models.caller import server_scope
from metamorphd.models.change import ChangeVerb
from metamorphd.operations import Operations
from metamorphd.store.database import Database

from tests.support.copies import NOW, SetClock, backed_up
from tests.support.engines import ENGINES

# Long enough for many looks at what is due.
A_WHILE = 0.3


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.01)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with ENGINES[0].database(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def keeping(
    database: Database,
    directory: Directory,
    clock: SetClock,
    *,
    hours: float = 24,
    days: float = 7,
    recorded: list[tuple[str, str]] | None = None,
) -> AsyncIterator[Backups]:
    async def record(name: str, verb: ChangeVerb) -> None:
        if recorded is None:
            raise StoreBusy(retry_delay=1.0)
        recorded.append((name, verb))

    async with Backups(
        database=database,
        operations=Operations(database=database, clock=clock),
        clock=clock,
        path=directory.path,
        interval_hours=hours,
        retention_days=days,
        server_version="1",
        record=record,
        stamp=NoStamping().stamp,
    ) as backups:
        yield backups


async def listed(backups: Backups, true: Callable[[list[Backup]], Any]) -> list[Backup]:
    """Returns the backups once that is true of them, and still is after a while."""
    async with asyncio.timeout(30):
        while not true(await backups.list_backups()):  # noqa: ASYNC110, there is no event for it
            await asyncio.sleep(0.02)
    await asyncio.sleep(A_WHILE)
    found = await backups.list_backups()
    assert true(found)
    return found


def ready(count: int) -> Callable[[list[Backup]], bool]:
    return lambda found: [backup.state for backup in found] == [BackupState.READY] * count


async def test_one_is_made_at_first_and_then_every_interval(
    database: Database, directory: Directory, clock: SetClock
) -> None:
    async with keeping(database, directory, clock) as backups:
        (first,) = await listed(backups, ready(1))
        clock.time += 24 * HOUR - 2_000_000
        await listed(backups, ready(1))
        clock.time += 3_000_000
        newer, older = await listed(backups, ready(2))
        assert (older.name, newer.name) == (first.name, name_at(clock.time))


async def test_what_is_done_unasked_is_recorded(database: Database, directory: Directory, clock: SetClock) -> None:
    recorded: list[tuple[str, str]] = []
    async with keeping(database, directory, clock, recorded=recorded) as backups:
        (first,) = await listed(backups, ready(1))
        assert recorded == [("", "created")]
        clock.time += 2_000_000
        await backups.create_backup(server_scope())
        await listed(backups, ready(2))
        clock.time += 8 * DAY
        await listed(backups, lambda found: ready(1)(found) and found[0].name == name_at(clock.time))
        # What was asked for is recorded by whoever was asked.
        assert [entry for entry in recorded if entry[1] == "created"] == [("", "created")] * 2
        assert ("deleted" in {verb for _, verb in recorded}, (first.name, "deleted") in recorded) == (True, True)


async def test_none_is_made_with_an_interval_of_0(database: Database, directory: Directory, clock: SetClock) -> None:
    async with keeping(database, directory, clock, hours=0) as backups:
        await asyncio.sleep(A_WHILE)
        assert await backups.list_backups() == []


async def test_the_newest_is_verified_again_after_a_day(
    database: Database, directory: Directory, clock: SetClock
) -> None:
    async with keeping(database, directory, clock, hours=48) as backups:
        (made,) = await listed(backups, ready(1))
        clock.time += DAY
        (verified,) = await listed(
            backups, lambda found: found[0].manifest is not None and found[0].manifest.verify_time > NOW
        )
        assert made.manifest is not None
        assert verified.manifest == replace(made.manifest, verify_time=clock.time)


async def test_old_ones_are_deleted_but_never_the_newest_good_one(
    database: Database, directory: Directory, clock: SetClock
) -> None:
    for age in (3, 9, 30):
        # Verified for long, since their bytes mean nothing.
        made = backed_up(directory, NOW - age * DAY)
        directory.write_manifest(replace(made, verify_time=NOW + 365 * DAY))
    damaged = backed_up(directory, NOW - 2 * DAY)
    directory.write_manifest(replace(damaged, faults=("it is damaged",)))
    async with keeping(database, directory, clock, hours=24 * 365) as backups:
        await listed(backups, lambda found: len(found) == 2)
        clock.time += 20 * DAY
        (left,) = await listed(backups, lambda found: len(found) == 1)
        assert left.name == name_at(NOW - 3 * DAY)


async def test_a_damaged_one_is_not_made_again_before_its_time(
    database: Database, directory: Directory, clock: SetClock
) -> None:
    made = backed_up(directory, NOW)
    directory.write_manifest(replace(made, faults=("row 1 of messages refers to a row of sessions that is missing",)))
    async with keeping(database, directory, clock) as backups:
        (backup,) = await listed(backups, lambda found: len(found) == 1)
        assert (backup.state, backups.degraded()) == (BackupState.DAMAGED, "backup")
        clock.time += 24 * HOUR
        await listed(
            backups, lambda found: [backup.state for backup in found] == [BackupState.READY, BackupState.DAMAGED]
        )


async def test_one_that_fails_is_tried_again_after_some_time(
    tmp_path: Path, directory: Directory, clock: SetClock
) -> None:
    # It is not open, so it cannot be copied.
    closed = ENGINES[0].database(tmp_path)
    async with keeping(closed, directory, clock) as backups:
        (failed,) = await listed(backups, lambda found: [backup.state for backup in found] == [BackupState.FAILED])
        assert (failed.name, failed.fault != "") == (name_at(NOW), True)
        clock.time += int(RETRY_SECONDS * 1e6) + 1_000_000
        await listed(backups, lambda found: found[0].name == name_at(clock.time))


async def test_manifests_that_make_no_sense_hide_nothing(
    database: Database, directory: Directory, clock: SetClock
) -> None:
    good = backed_up(directory, NOW)
    for number, content in enumerate(('{"faults": 5}', '{"name": []}', "[]", "5", "no JSON", "")):
        other = backed_up(directory, NOW - (number + 1) * 1_000_000)
        (directory.path / f"{other.name}.json").write_text(content)
    wrong = backed_up(directory, NOW - DAY)
    text = (directory.path / f"{wrong.name}.json").read_text()
    (directory.path / f"{wrong.name}.json").write_text(text.replace('"faults": []', '"faults": 5'))
    async with keeping(database, directory, clock, hours=0) as backups:
        states = [(backup.name, backup.state) for backup in await backups.list_backups()]
    assert states[0] == (good.name, BackupState.READY)
    assert [state for _, state in states[1:]] == [BackupState.UNKNOWN] * 7
