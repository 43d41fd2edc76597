"""What `deploy/replicate` does before and after it serves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engines import ENGINES
from tests.support.litestream import REPLICATE, Target, replicated, replicated_sessions, restore
from tests.support.processes import SOURCES, environment_of

(ENGINE,) = [engine for engine in ENGINES if engine.name == "sqlite"]


def run(directory: Path, target: Target, **changed: str) -> subprocess.CompletedProcess[str]:
    """Runs the entrypoint to its end."""
    environment = {**target.whole, "PYTHONPATH": SOURCES, **environment_of(directory), **changed}
    command = [str(REPLICATE), sys.executable, "-m", "metamorphd", "serve"]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def sessions_restored(directory: Path, target: Target) -> int:
    directory.mkdir()
    restore(target, directory / "metamorph.db")
    (count,) = ENGINE.counts(directory, "sessions")
    return count


async def test_on_an_empty_volume_a_damaged_replica_keeps_the_server_from_starting(
    tmp_path: Path, directory_target: Target
) -> None:
    await replicated_sessions(tmp_path / "primary", directory_target, count=3)
    for file in directory_target.files.rglob("*.ltx"):
        os.truncate(file, file.stat().st_size - 50)
    (tmp_path / "elsewhere").mkdir()
    ended = run(tmp_path / "elsewhere", directory_target)
    assert ended.returncode != 0
    assert "serving" not in ended.stdout
    # The next start does not take what is half restored for a database.
    assert not (tmp_path / "elsewhere" / "metamorph.db").exists()


async def test_a_database_that_is_restored_is_for_its_user_only(tmp_path: Path, directory_target: Target) -> None:
    await replicated_sessions(tmp_path / "primary", directory_target, count=3)
    with replicated(tmp_path / "elsewhere", directory_target):
        files = list((tmp_path / "elsewhere").glob("metamorph.db*"))
        assert {file.name: file.stat().st_mode & 0o077 for file in files} == {file.name: 0 for file in files}
        assert tmp_path / "elsewhere" / "metamorph.db" in files


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"REPLICA_URL": ""}, "REPLICA_URL: is not set; set it to s3://bucket/prefix"),
        ({"EMBLEM_JWT_SECRET": "short"}, "EMBLEM_JWT_SECRET has fewer than 32 characters"),
    ],
)
def test_a_server_that_does_not_start_is_the_entrypoints_failure(
    tmp_path: Path, directory_target: Target, changed: dict[str, str], expected: str
) -> None:
    ended = run(tmp_path, directory_target, **changed)
    assert ended.returncode == 1
    assert expected in ended.stdout + ended.stderr


async def test_a_database_that_a_backup_replaced_is_sent_whole(tmp_path: Path, directory_target: Target) -> None:
    primary, backup = tmp_path / "primary", tmp_path / "backup.db"
    await replicated_sessions(primary, directory_target, count=3)
    async with ENGINE.database(primary) as database:
        await database.copy(backup, progress=lambda _: None)
    await replicated_sessions(primary, directory_target, count=50)
    assert sessions_restored(tmp_path / "before", directory_target) == 53
    for suffix in ("", "-wal", "-shm"):
        (primary / f"metamorph.db{suffix}").unlink(missing_ok=True)
    backup.rename(primary / "metamorph.db")
    await replicated_sessions(primary, directory_target, count=2)
    assert sessions_restored(tmp_path / "after", directory_target) == 5
