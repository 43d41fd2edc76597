"""SQLite for the tests that run on every database."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import apsw
from metamorphd.store import migrations
from metamorphd.store.sqlite import search
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.support.statements import parsed, placeholders


class SqliteEngine:
    """See `tests.support.engines.Engine`."""

    name = "sqlite"
    words = frozenset({"import apsw", "import sqlite3", "SqliteDatabase", "SqliteTransaction", "store.sqlite"})
    index_tables = frozenset({"message_search"})

    database_class = SqliteDatabase

    def database(self, directory: Path) -> SqliteDatabase:
        return SqliteDatabase(path=directory / "metamorph.db", synchronous="FULL")

    def counts(self, directory: Path, *tables: str) -> tuple[int, ...]:
        connection = apsw.Connection(str(directory / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
        found = [connection.execute(f"SELECT COUNT(*) FROM {table}").get for table in tables]  # noqa: S608
        connection.close()
        return tuple(int(str(count)) for count in found)

    @cache  # noqa: B019
    def tables(self) -> Mapping[str, list[tuple[str, int]]]:
        connection = migrated()
        # The shadow tables of a search index are internal to FTS5.
        listed = "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND name NOT LIKE 'sqlite_%'"
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


def migrated() -> apsw.Connection:
    """Returns an empty database with the latest schema."""
    connection = apsw.Connection(":memory:")
    search.register(connection)
    for _, script in migrations.load("sqlite"):
        connection.execute(script)
    return connection


def explained(how: str, sql: str) -> list[tuple[Any, ...]]:
    """Returns what EXPLAIN shows of a statement whose parameters are NULL."""
    connection = migrated()
    rows = connection.execute(how + sql, dict.fromkeys(placeholders(parsed(sql, "sqlite")))).fetchall()
    connection.close()
    return rows


def plan(sql: str) -> list[str]:
    """Returns the steps of a statement's plan."""
    return [str(row[3]) for row in explained("EXPLAIN QUERY PLAN ", sql)]
