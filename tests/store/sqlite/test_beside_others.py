"""A database that Litestream has open too."""

import shutil
from pathlib import Path

import apsw
import pytest
from metamorphd.errors import StartupRefused
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.support.rows import new_session


def open_database(directory: Path) -> SqliteDatabase:
    return SqliteDatabase(path=directory / "metamorph.db", synchronous="FULL")


def reading(path: Path) -> apsw.Connection:
    """Returns a connection with a snapshot, as Litestream keeps one."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("BEGIN")
    connection.execute("SELECT COUNT(*) FROM sessions").fetchall()
    return connection


async def test_a_log_that_litestream_keeps_does_not_look_like_a_crash(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await new_session(database)
        other = reading(tmp_path / "metamorph.db")
        await new_session(database)
    assert (tmp_path / "metamorph.db-wal").stat().st_size
    # Another program's may be that of a crash.
    async with open_database(tmp_path) as again:
        assert not again.clean
    (tmp_path / ".metamorph.db-litestream").mkdir()
    async with open_database(tmp_path) as beside:
        assert beside.clean
        await new_session(beside)
        shutil.copytree(tmp_path, tmp_path / "crashed", ignore=shutil.ignore_patterns("*-shm", "*.lock", "crashed"))
    async with open_database(tmp_path / "crashed") as crashed:
        assert not crashed.clean
    other.close()


async def test_an_empty_file_with_litestreams_tables_becomes_a_database(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "metamorph.db"))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)").fetchall()
    connection.close()
    async with open_database(tmp_path) as database:
        await new_session(database)


async def test_an_empty_file_with_other_tables_does_not(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "metamorph.db"))
    connection.execute("CREATE TABLE xlitestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)").fetchall()
    connection.close()
    with pytest.raises(StartupRefused, match="belongs to another program"):
        async with open_database(tmp_path):
            pass
