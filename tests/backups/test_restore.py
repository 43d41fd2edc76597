"""A restore that is interrupted, or that is not the only one."""

import asyncio
import contextlib
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_CREATING
from metamorphd.backups.restore import Restore
from metamorphd.backups.sources import PlainFile
from metamorphd.errors import StartupRefused

from tests.support.interrupting import interrupting
from tests.support.serving import serving


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """A backup with a session, beside a database with two."""
    async with serving(tmp_path) as server:
        operator = server.caller(operator=True)
        await server.caller().create_session(title="Kept")
        made = (await operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)).backup
        while made.state == BACKUP_STATE_CREATING:
            await asyncio.sleep(0.02)
            request = pb.GetBackupRequest(name=made.name)
            made = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
        await server.caller().create_session(title="Newer")
    return tmp_path / "backups" / str(made.name)


async def titles(directory: Path) -> set[str]:
    """Returns the titles of the sessions that a server has once it is started."""
    async with serving(directory) as server:
        return {session.title for session in await server.caller().sessions()}


def restored(backup: Path, database: Path) -> None:
    restore = Restore(PlainFile(backup), database)
    with restore.prepared(progress=lambda _: None):
        restore.apply(aside=database.with_name("metamorph.db.before"))


def steps(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yields the numbers of the calls at which a restore can be interrupted; the database is the old one each time."""
    old = {path: path.read_bytes() for path in tmp_path.glob("metamorph.db*")}
    at = 0
    while True:
        at += 1
        for path in tmp_path.glob("metamorph.db*"):
            path.unlink()
        for path, content in old.items():
            path.write_bytes(content)
        with monkeypatch.context() as patch:
            calls = interrupting(patch, KeyboardInterrupt, at=at)
            with contextlib.suppress(KeyboardInterrupt):
                restored(backup, tmp_path / "metamorph.db")
        if calls() < at:
            return
        yield at


async def test_a_restore_that_is_interrupted_anywhere_leaves_the_old_or_the_new_database(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for _ in steps(backup, tmp_path, monkeypatch):
        found.append(await titles(tmp_path))
        assert found[-1] in ({"Kept", "Newer"}, {"Kept"})
        assert [path.name for path in tmp_path.glob("*.part")] == []
    assert len(found) > 5
    assert found[0] != found[-1]


async def test_what_a_killed_restore_has_copied_is_deleted_at_the_next_start(backup: Path, tmp_path: Path) -> None:
    shutil.copy(backup, tmp_path / "metamorph.db-restored.part")
    (tmp_path / "metamorph.db-replacing.part").write_bytes(b"{")
    assert await titles(tmp_path) == {"Kept", "Newer"}
    assert [path.name for path in tmp_path.glob("*.part")] == []


async def test_of_two_restores_at_once_the_second_one_is_refused_and_the_first_one_done(
    backup: Path, tmp_path: Path
) -> None:
    first = Restore(PlainFile(backup), tmp_path / "metamorph.db")
    with first.prepared(progress=lambda _: None):
        with pytest.raises(StartupRefused, match="in use"):
            restored(backup, tmp_path / "metamorph.db")
        first.apply(aside=tmp_path / "metamorph.db.before")
    assert await titles(tmp_path) == {"Kept"}


async def test_a_restore_whose_copy_is_gone_changes_nothing(backup: Path, tmp_path: Path) -> None:
    def deleting(_: float) -> None:
        (tmp_path / "metamorph.db-restored.part").unlink()

    restore = Restore(PlainFile(backup), tmp_path / "metamorph.db")
    with pytest.raises(StartupRefused, match="cannot be restored"), restore.prepared(progress=deleting):
        restore.apply(aside=tmp_path / "metamorph.db.before")
    assert await titles(tmp_path) == {"Kept", "Newer"}


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Lets no file grow beyond a size, as on a full disk: a write that has no room for all of it writes a part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_backup_that_fits_in_part_is_not_restored(backup: Path, tmp_path: Path) -> None:
    with file_limit(backup.stat().st_size - 4096), pytest.raises(StartupRefused, match="cannot be restored"):
        restored(backup, tmp_path / "metamorph.db")
    assert await titles(tmp_path) == {"Kept", "Newer"}


async def test_a_database_that_has_a_log_beside_it_is_no_backup(tmp_path: Path) -> None:
    killed = tmp_path / "killed.db"
    async with serving(tmp_path) as server:
        await server.caller().create_session(title="In the log only")
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"metamorph.db{suffix}", f"{killed}{suffix}")
    with pytest.raises(StartupRefused, match="write-ahead log"):
        restored(killed, tmp_path / "new" / "metamorph.db")


async def test_the_database_may_be_a_link_to_a_file_elsewhere(backup: Path, tmp_path: Path) -> None:
    link = tmp_path / "links" / "linked.db"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "metamorph.db")
    restore = Restore(PlainFile(backup), link)
    with restore.prepared(progress=lambda _: None):
        assert restore.apply(aside=link.with_name("linked.db.before")) == tmp_path / "linked.db.before"
    assert (tmp_path / "linked.db.before").exists()
    assert (link.is_symlink(), await titles(tmp_path)) == (True, {"Kept"})
    link.unlink()
    link.symlink_to(tmp_path / "new.db")
    with (new := Restore(PlainFile(backup), link)).prepared(progress=lambda _: None):
        assert new.apply(aside=link.with_name("linked.db.before-1")) is None


async def test_a_database_that_cannot_be_made_is_refused(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(StartupRefused, match="cannot be opened"):
        restored(backup, backup / "metamorph.db")


async def test_the_database_before_can_be_restored_again(backup: Path, tmp_path: Path) -> None:
    restored(backup, tmp_path / "metamorph.db")
    assert await titles(tmp_path) == {"Kept"}
    (tmp_path / "metamorph.db.before").rename(tmp_path / "before.db")
    restored(tmp_path / "before.db", tmp_path / "metamorph.db")
    assert await titles(tmp_path) == {"Kept", "Newer"}
