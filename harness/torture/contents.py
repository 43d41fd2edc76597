"""Everything that a database file has in it, read without a server."""

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
from metamorphd.models.caller import SERVER_LOG

# A start ends the operations that the server before it has lost, and its own log says so.
OF_SERVER = ("", SERVER_LOG)


def digest(path: Path) -> str:
    """Returns a digest of the rows of all tables, but the server's own operations and log.

    Two databases have the same only if both have the same rows.
    """
    hashed = hashlib.blake2b()
    with _opened(path) as connection:
        tables = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        for name, sql in connection.execute(tables).fetchall():
            hashed.update(repr((name, sql)).encode())
            columns = [column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            vault = columns.index("vault_id") if "vault_id" in columns else None
            for row in connection.execute(f'SELECT * FROM "{name}"'):  # noqa: S608, a table's name
                if vault is None or row[vault] not in OF_SERVER:
                    hashed.update(repr(row).encode())
    return hashed.hexdigest()


def titles(path: Path) -> dict[tuple[str, str], dict[int, int]]:
    """Returns the sessions of authors: by vault and author, the number of each session's newest write."""
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    with _opened(path) as connection:
        for vault, title in connection.execute("SELECT vault_id, title FROM sessions WHERE title LIKE '%.% % %'"):
            author, session, number = str(title).split()
            found[str(vault), author][int(session)] = int(number)
    return found


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Yields a copy of a database that nobody has open, with its log: reading it changes neither."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        copy = Path(directory) / "copy.db"
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        yield copy


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(5000)
    try:
        with connection:
            yield connection
    finally:
        connection.close()
