"""One server a file, by whichever name, and files that nobody else may read."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from metamorphd.errors import StartupRefused
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.support.rows import new_session

OPEN = """
import asyncio, sys
from pathlib import Path
from metamorphd.store.sqlite.database import SqliteDatabase
async def main():
    async with SqliteDatabase(path=Path(sys.argv[1]), synchronous="FULL"):
        print("opened")
asyncio.run(main())
"""


def open_elsewhere(path: Path, directory: Path) -> str:
    """Opens a database in another process, and returns what it says at the end."""
    command = [sys.executable, "-c", OPEN, str(path)]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=30, check=False)
    return (ended.stdout + ended.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["symlink", "linked directory", "relative", "hard link", "renamed"])
async def test_a_second_server_is_refused_by_whichever_name_it_opens_the_file(
    database: SqliteDatabase, tmp_path: Path, name: str
) -> None:
    path, other = tmp_path / "metamorph.db", tmp_path / "other.db"
    match name:
        case "symlink":
            other.symlink_to(path)
        case "linked directory":
            (tmp_path / "linked").symlink_to(tmp_path)
            other = tmp_path / "linked" / "metamorph.db"
        case "relative":
            other = Path("metamorph.db")
        case "hard link":
            os.link(path, other)
        case _:
            path.rename(other)
    refusal = open_elsewhere(other, tmp_path)
    assert "StartupRefused" in refusal
    assert "in use by another server" in refusal or "hard link" in refusal
    if name == "renamed":
        other.rename(path)
    await new_session(database)


async def test_a_file_with_two_names_is_refused_until_one_is_removed(tmp_path: Path) -> None:
    path, other = tmp_path / "metamorph.db", tmp_path / "other.db"
    async with SqliteDatabase(path=path, synchronous="FULL"):
        pass
    os.link(path, other)
    with pytest.raises(StartupRefused, match="another name"):
        await SqliteDatabase(path=path, synchronous="FULL").__aenter__()
    other.unlink()
    async with SqliteDatabase(path=path, synchronous="FULL") as database:
        assert await new_session(database)


async def test_a_directory_is_refused_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(StartupRefused, match=r"is a directory; name the file in it, such as .*/metamorph\.db"):
        await SqliteDatabase(path=tmp_path, synchronous="FULL").__aenter__()


async def test_a_linked_file_has_its_log_and_the_rest_beside_the_file(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (tmp_path / "metamorph.db").symlink_to(volume / "real.db")
    volume.mkdir()
    async with SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="FULL") as database:
        await new_session(database)
        _, read = database.gauges["metamorph_wal_bytes"]
        assert read() > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and not path.is_symlink()] == []


async def test_files_and_their_directory_are_for_the_server_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        directory = tmp_path / "data" / "here"
        database = SqliteDatabase(path=directory / "metamorph.db", synchronous="FULL")
        async with database:
            await new_session(database)
            while await database.check():
                pass
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {"metamorph.db", "metamorph.db-wal", "metamorph.db-shm", "metamorph.db.lock", "metamorph.db-check"} <= set(
        modes
    )
    assert set(modes.values()) == {0o600}
