"""Brings the schema of a database file to the newest version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from metamorphd.errors import StartupRefused
from metamorphd.store import migrations
from metamorphd.store.fills import FILLS

# Litestream adds tables of its own, as soon as there is a file.
OTHERS_TABLES = r"SELECT COUNT(*) FROM sqlite_schema WHERE tbl_name NOT LIKE '\_litestream\_%' ESCAPE '\'"
# "MTMF": distinguishes our files from any other SQLite database.
APPLICATION_ID = 0x4D544D46


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Brings a database to the newest version. Raises StartupRefused.

    A step and its fill are one transaction, or several if the fill yields: then the version is that of the step before
    until the fill is done, and when it is interrupted, the step runs again.
    """
    application_id = number(connection, "PRAGMA application_id")
    applied = number(connection, "PRAGMA user_version")
    if application_id != APPLICATION_ID and (application_id or applied or number(connection, OTHERS_TABLES)):
        raise StartupRefused(f"{path} belongs to another program; set DATABASE_PATH to a file of Metamorph's own")
    steps = migrations.load("sqlite")
    newest, _ = steps[-1]
    if applied > newest:
        raise StartupRefused(f"{path} was written by a newer server (schema {applied}, this one knows {newest})")
    for version, statements in steps:
        if version > applied:
            with _transaction(connection):
                connection.execute(statements).fetchall()
                for _ in FILLS[version](connection.execute) if version in FILLS else ():
                    connection.execute("COMMIT")
                    connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version}")


@contextmanager
def _transaction(connection: apsw.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def number(connection: apsw.Connection, sql: str) -> int:
    """Returns the number that a statement yields, 0 for NULL."""
    ((value,),) = connection.execute(sql).fetchall()
    return int(value or 0)
