"""SQLite for the tests that run on every database."""

import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
from metamorphd.chain import Chain
from metamorphd.store import migrations
from metamorphd.store.fills import FILLS
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.file import DatabaseFile
from metamorphd.store.sqlite.transaction import UNCHAINED

from tests.support.statements import parsed, placeholders


class SqliteEngine:
    """See `tests.support.engines.Engine`."""

    name = "sqlite"
    words = frozenset({"import apsw", "import sqlite3", "SqliteDatabase", "SqliteTransaction", "store.sqlite"})

    database_class = SqliteDatabase

    def database(self, directory: Path, *, chain: Chain = UNCHAINED) -> SqliteDatabase:
        return SqliteDatabase(path=directory / "metamorph.db", synchronous="FULL", chain=chain)

    def create(self, directory: Path) -> None:
        path = directory / "metamorph.db"
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            database_id, content = _new_file()
            path.write_bytes(content.replace(database_id, secrets.token_hex(16).encode()))

    def counts(self, directory: Path, *tables: str) -> tuple[int, ...]:
        connection = apsw.Connection(str(directory / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
        found = [connection.execute(f"SELECT COUNT(*) FROM {table}").get for table in tables]  # noqa: S608
        connection.close()
        return tuple(int(str(count)) for count in found)

    @cache  # noqa: B019
    def tables(self) -> Mapping[str, list[tuple[str, int]]]:
        connection = migrated()
        listed = "SELECT name FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [str(name) for (name,) in connection.execute(listed)]
        columns = "SELECT name, pk FROM pragma_table_info(?)"
        found = {
            name: [(str(column), int(str(place))) for column, place in connection.execute(columns, (name,))]
            for name in names
        }
        connection.close()
        return found

    def compile(self, sql: str) -> None:
        explained("EXPLAIN ", sql)


@cache
def _new_file() -> tuple[bytes, bytes]:
    """Returns the identity of a new database, and its file."""
    with TemporaryDirectory() as name:
        file = DatabaseFile(Path(name) / "metamorph.db", synchronous="OFF", vfs=None)
        file.open(lambda: None)
        database_id = str(file.writing.execute("SELECT database_id FROM identity").get)
        file.close()
        return database_id.encode(), file.path.read_bytes()


def migrated() -> apsw.Connection:
    """Returns an empty database with the latest schema."""
    connection = apsw.Connection(":memory:")
    for version, script in migrations.load("sqlite"):
        connection.execute(script)
        if version in FILLS:
            list(FILLS[version](connection.execute))
    return connection


@cache
def _explaining() -> apsw.Connection:
    return migrated()


def explained(how: str, sql: str) -> list[tuple[Any, ...]]:
    """Returns what EXPLAIN shows of a statement whose parameters are NULL."""
    return _explaining().execute(how + sql, dict.fromkeys(placeholders(parsed(sql, "sqlite")))).fetchall()


def plan(sql: str) -> list[str]:
    """Returns the steps of a statement's plan."""
    return [str(row[3]) for row in explained("EXPLAIN QUERY PLAN ", sql)]
