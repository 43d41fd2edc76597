"""Backups that are made, verified, downloaded and deleted on a running server."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1 import backup_pb2
from metamorphd.backups.directory import DAY
from metamorphd.clock import Clock
from metamorphd.errors import StartupRefused

from tests.support.caller import Caller
from tests.support.copies import SetClock
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.slow import slow_backup

READY, DAMAGED = backup_pb2.BACKUP_STATE_READY, backup_pb2.BACKUP_STATE_DAMAGED
WORKING = (backup_pb2.BACKUP_STATE_CREATING, backup_pb2.BACKUP_STATE_VERIFYING)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
def operator(server: Serving) -> Caller:
    return server.caller(operator=True)


async def done(operator: Caller, name: str) -> backup_pb2.Backup:
    """Returns a backup once nothing is done on it."""
    while True:
        request = pb.GetBackupRequest(name=name)
        backup = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
        if backup.state not in WORKING:
            return backup
        await asyncio.sleep(0.02)


async def created(operator: Caller) -> backup_pb2.Backup:
    begun = (await operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)).backup
    assert begun.state == backup_pb2.BACKUP_STATE_CREATING
    return await done(operator, begun.name)


async def verified(operator: Caller, name: str) -> backup_pb2.Backup:
    await operator.admin.VerifyBackup(pb.VerifyBackupRequest(name=name), metadata=operator.metadata)
    return await done(operator, name)


async def listed(operator: Caller) -> list[str]:
    response = await operator.admin.ListBackups(pb.ListBackupsRequest(), metadata=operator.metadata)
    return [backup.name for backup in response.backups]


async def test_a_backup_has_what_was_stored_before_it_was_begun(
    server: Serving, operator: Caller, tmp_path: Path
) -> None:
    alice = server.caller()
    for number in range(20):
        await alice.create_session(title=f"Session {number}")
    backup = await created(operator)
    assert (backup.state, backup.fault, backup.row_counts["sessions"]) == (READY, "", 20)
    file = tmp_path / "backups" / backup.name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == backup.sha256
    assert sorted(path.name for path in file.parent.iterdir()) == [backup.name, f"{backup.name}.json"]


async def test_a_damaged_backup_is_found(server: Serving, operator: Caller, tmp_path: Path) -> None:
    backup = await created(operator)
    assert (await verified(operator, backup.name)).state == READY
    file = tmp_path / "backups" / backup.name
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    damaged = await verified(operator, backup.name)
    assert (damaged.state, "SHA-256" in damaged.fault) == (DAMAGED, True)


async def test_backups_are_listed_shown_and_deleted_while_one_is_read(operator: Caller, tmp_path: Path) -> None:
    first = await created(operator)
    slow = "metamorph-20250125.db"
    end = slow_backup(tmp_path / "backups" / slow)
    await operator.admin.VerifyBackup(pb.VerifyBackupRequest(name=slow), metadata=operator.metadata)
    try:
        async with asyncio.timeout(10):
            assert await listed(operator) == [slow, first.name]
            assert (await done(operator, first.name)).state == READY
            await operator.admin.DeleteBackup(pb.DeleteBackupRequest(name=first.name), metadata=operator.metadata)
            assert await listed(operator) == [slow]
    finally:
        end()
    assert (await done(operator, slow)).state == DAMAGED


async def test_a_download_can_be_continued(server: Serving, operator: Caller, tmp_path: Path) -> None:
    backup = await created(operator)

    async def downloaded(offset: int) -> bytes:
        request = pb.DownloadBackupRequest(name=backup.name, offset=offset)
        call = operator.admin.DownloadBackup(request, metadata=operator.metadata)
        return b"".join([response.data async for response in call])

    whole = await downloaded(0)
    assert whole == (tmp_path / "backups" / backup.name).read_bytes()
    assert await downloaded(100_001) == whole[100_001:]
    assert await downloaded(len(whole)) == b""


async def test_backups_are_listed_and_deleted(server: Serving, operator: Caller) -> None:
    names = [(await created(operator)).name for _ in range(3)]
    assert await listed(operator) == names[::-1]
    first = await operator.admin.ListBackups(pb.ListBackupsRequest(page_size=2), metadata=operator.metadata)
    rest = pb.ListBackupsRequest(page_size=2, page_token=first.next_page_token)
    second = await operator.admin.ListBackups(rest, metadata=operator.metadata)
    assert [backup.name for backup in (*first.backups, *second.backups)] == names[::-1]
    await operator.admin.DeleteBackup(pb.DeleteBackupRequest(name=names[1]), metadata=operator.metadata)
    assert await listed(operator) == [names[2], names[0]]
    for gone in (names[1], "metamorph-20260231_000000.db"):
        request = pb.GetBackupRequest(name=gone)
        assert (
            await refused(operator.admin.GetBackup(request, metadata=operator.metadata))
        ).reason == "BACKUP_NOT_FOUND"


async def pruned(operator: Caller, *, validate_only: bool = False) -> list[str]:
    request = pb.PruneBackupsRequest(validate_only=validate_only)
    return list((await operator.admin.PruneBackups(request, metadata=operator.metadata)).names)


async def test_old_backups_are_deleted_by_the_retention_and_the_clock_of_the_server(tmp_path: Path) -> None:
    clock, begun = SetClock(), Clock().now()
    clock.time = begun
    async with serving(tmp_path, clock=clock, backup_interval_hours=0, backup_retention_days=30) as server:

        def operator_after(days: int) -> Caller:
            clock.time = begun + days * DAY
            return server.caller(operator=True, exp=clock.time // 1_000_000 + 3600)

        names = [(await created(operator_after(days))).name for days in (0, 10, 20, 29)]
        operator = operator_after(60)
        # One that is being verified stays, though it is too old.
        await operator.admin.VerifyBackup(pb.VerifyBackupRequest(name=names[2]), metadata=operator.metadata)
        assert await pruned(operator) == [names[1], names[0]]
        assert (await done(operator, names[2])).state == READY
        assert await listed(operator) == [names[3], names[2]]
        assert await pruned(operator, validate_only=True) == [names[2]]
        assert await listed(operator) == [names[3], names[2]]
        assert await pruned(operator) == [names[2]]
        operator = operator_after(300)
        assert await pruned(operator) == []
        assert await listed(operator) == [names[3]]


async def test_the_backups_of_a_new_database_do_not_displace_those_of_the_one_that_was_lost(tmp_path: Path) -> None:
    clock, begun = SetClock(), Clock().now()

    async def backed_up_after(days: int) -> tuple[str, list[str]]:
        """Starts a server after some days and makes a backup. Returns its name, and all names."""
        clock.time = begun + days * DAY
        async with serving(tmp_path, clock=clock, backup_interval_hours=0, backup_retention_days=7) as server:
            operator = server.caller(operator=True, exp=clock.time // 1_000_000 + 3600)
            name = (await created(operator)).name
            return name, await listed(operator)

    def lose() -> None:
        for file in tmp_path.glob("metamorph.db*"):
            file.unlink()

    await backed_up_after(0)
    lost, _ = await backed_up_after(1)
    lose()
    new, names = await backed_up_after(20)
    assert names == [new, lost]
    newer, names = await backed_up_after(40)
    assert names == [newer, lost]
    # A database that is restored is the one that was lost.
    lose()
    shutil.copy(tmp_path / "backups" / lost, tmp_path / "metamorph.db")
    restored, names = await backed_up_after(60)
    assert names == [restored, newer]


@pytest.mark.parametrize("place", ["file", "file/below"])
async def test_a_server_whose_directory_of_backups_cannot_be_made_does_not_start(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("Hello")
    with pytest.raises(StartupRefused, match=r"BACKUP_DIR .* cannot be used"):
        async with serving(tmp_path / "server", backup_dir=tmp_path / place):
            pass
