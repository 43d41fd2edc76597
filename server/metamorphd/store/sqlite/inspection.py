"""Checks a file that is not in use: a copy of a database."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from metamorphd.chain import Head, HeadsDigest
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
# The end of the log of the next vault.
NEXT_HEAD = """
SELECT vault_id, revision, mac FROM changes WHERE vault_id = (SELECT MIN(vault_id) FROM changes WHERE vault_id > ?)
ORDER BY revision DESC LIMIT 1
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
    connection = _immutable(path)
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
        heads = _log_heads(connection)
        return Inspection(
            number(connection, "PRAGMA user_version"),
            _row_counts(connection),
            tuple(faults),
            _database_id(connection),
            log_count=heads.count,
            log_heads=heads.digest.hex() if heads.count else "",
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


def list_heads(path: Path) -> Iterator[tuple[str, Head]]:
    """Yields the vaults and the ends of their logs in a database file that nobody has open, a seek each."""
    connection = _immutable(path)
    try:
        yield from _heads(connection)
    finally:
        connection.close()


def _heads(connection: apsw.Connection) -> Iterator[tuple[str, Head]]:
    # Earlier schemas authenticate nothing.
    if not number(connection, "SELECT COUNT(*) FROM pragma_table_info('changes') WHERE name = 'mac'"):
        return
    after = ""
    while rows := connection.execute(NEXT_HEAD, (after,)).fetchall():
        row: Any = rows[0]
        after = row[0]
        yield after, Head(*row[1:])


def _log_heads(connection: apsw.Connection) -> HeadsDigest:
    digest = HeadsDigest()
    for vault_id, head in _heads(connection):
        digest.add(vault_id, head)
    return digest


def _immutable(path: Path) -> apsw.Connection:
    """Opens a file that nothing else has open. No write-ahead log is made beside it."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{path.resolve().as_uri()}?immutable=1", flags=flags)


def _row_counts(connection: apsw.Connection) -> dict[str, int]:
    names = [str(name) for (name,) in connection.execute(COUNTED_TABLES).fetchall()]
    return {name: number(connection, f'SELECT COUNT(*) FROM "{name}"') for name in names}
