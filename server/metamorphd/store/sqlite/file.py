"""A database file: how it is opened and closed, its connections, and the files that are kept beside it."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import apsw
import structlog

from metamorphd.store.sqlite.gaps import Gaps
from metamorphd.store.sqlite.lock import Lock
from metamorphd.store.sqlite.migrate import migrate
from metamorphd.store.sqlite.replacement import finish_replacement

logger = structlog.get_logger(__name__)


class DatabaseFile:
    """A file, which one process has open at a time. `synchronous` and `vfs` are as for `SqliteDatabase`.

    Once it is open, `writing` is the connection that writes, `point_reader` that of reads on the event loop's thread,
    and `clean` whether the server before closed it.
    """

    writing: apsw.Connection
    point_reader: apsw.Connection

    def __init__(self, path: Path, *, synchronous: str, vfs: str | None) -> None:
        # SQLite names the log after the file, not after a link to it.
        self.path = Path(os.path.realpath(path))
        self.log = Path(f"{self.path}-wal")
        self.gaps = Gaps(self.path)
        self.clean = True
        self._synchronous = synchronous
        self._vfs = vfs
        self._lock = Lock(self.path)
        # Is there as long as the database is open, and after a crash.
        self._serving = Path(f"{self.path}-serving")
        self._connections: list[apsw.Connection] = []

    def open(self, prepare: Callable[[], None]) -> None:
        """Locks the file, calls `prepare`, and connects to the newest schema.

        Raises StartupRefused, apsw.Error and OSError; `close` closes what is open by then.
        """
        self._lock.acquire()
        if finish_replacement(self.path):
            logger.warning("a restore that was interrupted is complete", path=str(self.path))
            # Another file is there now.
            self._lock.release()
            self._lock.acquire()
        self.clean = self._was_closed()
        # A full volume keeps no server from starting.
        with contextlib.suppress(OSError):
            self._serving.touch(mode=0o600)
        prepare()
        self.writing = self.connect(readonly=False)
        migrate(self.writing, self.path)
        self.point_reader = self.connect(readonly=True)
        self.gaps.open(clean=self.clean)

    def connect(self, *, readonly: bool) -> apsw.Connection:
        """Returns another connection, which `close` closes."""
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if readonly else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(str(self.path), flags=flags, vfs=self._vfs)
        self._connections.append(connection)
        for pragma in _pragmas(synchronous=self._synchronous, readonly=readonly):
            connection.execute("PRAGMA " + pragma).fetchall()
        return connection

    def close(self) -> None:
        """Closes every connection, and releases the lock."""
        for connection in reversed(self._connections):
            connection.close()
        self._connections.clear()
        self.gaps.close()
        self._lock.release()

    def note_end(self) -> None:
        """Records that the server has closed it."""
        self._serving.unlink(missing_ok=True)

    def log_bytes(self) -> int:
        """Returns the size of the write-ahead log."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def _was_closed(self) -> bool:
        # SQLite deletes the log when the last connection is closed. Litestream keeps it, or makes one.
        if not self.log.exists():
            return True
        return not self._serving.exists() and self.path.with_name(f".{self.path.name}-litestream").exists()


def _pragmas(*, synchronous: str, readonly: bool) -> Iterable[str]:
    yield "busy_timeout = 5000"
    yield "foreign_keys = ON"
    if readonly:
        yield "query_only = ON"
        # The guide's 64 MB is one connection's; five more of that size would be the container's memory.
        yield "cache_size = -8000"
    else:
        yield "journal_mode = WAL"
        yield f"synchronous = {synchronous}"
        yield "cache_size = -64000"
        yield "journal_size_limit = 67108864"
        # A deleted message may have held a password: its bytes are overwritten. See also `Gaps`.
        yield "secure_delete = ON"
