"""Checks a file that is not in use: a copy of a database."""

import threading
from pathlib import Path

import apsw

from metamorphd.errors import StoreNotReady
from metamorphd.models.backup import Inspection
from metamorphd.store.sqlite.migrate import APPLICATION_ID, number

# SQLite asks after so many steps of a statement whether to stop it.
STEPS = 100_000
MOST_FAULTS = 16
# With what is stored. A database of an earlier schema has no identity, and lacks nothing for that.
COUNTED_TABLES = """
SELECT name FROM sqlite_schema
WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'identity' ORDER BY name
"""


def inspect(path: Path, *, stopped: threading.Event | None = None) -> Inspection:
    """Returns what is in a database file, which is read whole and not changed. Blocks.

    Raises StoreNotReady if it is stopped.
    """
    try:
        return _inspect(path, stopped or threading.Event())
    except apsw.InterruptError as exc:
        raise StoreNotReady(retry_delay=None) from exc
    except (apsw.NotADBError, apsw.CorruptError, apsw.CantOpenError, apsw.IOError, UnicodeDecodeError) as exc:
        return Inspection(0, {}, (f"it cannot be read as a database ({exc})",))


def _inspect(path: Path, stopped: threading.Event) -> Inspection:
    # Immutable: nothing else has it open, and no write-ahead log is made beside it.
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"{path.resolve().as_uri()}?immutable=1", flags=flags)
    try:
        connection.set_progress_handler(stopped.is_set, STEPS)
        if number(connection, "PRAGMA application_id") != APPLICATION_ID:
            return Inspection(0, {}, ("it is not a database of this server",))
        faults = [
            str(fault)
            for (fault,) in connection.execute(f"PRAGMA integrity_check({MOST_FAULTS})").fetchall()
            if fault != "ok"
        ]
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            if len(faults) < MOST_FAULTS:
                faults.append(f"row {row} of {table} refers to a row of {parent} that is missing")
        return Inspection(
            number(connection, "PRAGMA user_version"), _row_counts(connection), tuple(faults), _database_id(connection)
        )
    finally:
        connection.close()


def count_rows(path: Path) -> dict[str, int] | None:
    """Returns the rows by table of a database that nobody has open, with those in its log; None if it is unreadable.

    A log that a crash left stays as it is: the next start sees by it that there was one.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error:
        return None
    try:
        if Path(f"{path}-wal").exists():
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return _row_counts(connection)
    except (apsw.Error, UnicodeDecodeError):
        return None
    finally:
        connection.close()


def _database_id(connection: apsw.Connection) -> str:
    if not number(connection, "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'identity'"):
        return ""
    rows = connection.execute("SELECT database_id FROM identity").fetchall()
    return str(rows[0][0]) if rows else ""


def _row_counts(connection: apsw.Connection) -> dict[str, int]:
    names = [str(name) for (name,) in connection.execute(COUNTED_TABLES).fetchall()]
    return {name: number(connection, f'SELECT COUNT(*) FROM "{name}"') for name in names}
