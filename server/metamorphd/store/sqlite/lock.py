"""One server a file, by whichever name it is opened."""

import fcntl
import os
from pathlib import Path

from metamorphd.errors import StartupRefused


class Lock:
    """Locks of the system (flock), which it releases however the process ends.

    One is on a file beside the database, which stays when a database is replaced. The other is on the database, and
    stays with it when it is renamed. SQLite's own locks on it are lost when any descriptor of it is closed within the
    process (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_), so
    this one is open until SQLite has closed its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptors: list[int] = []

    def acquire(self) -> None:
        """Creates what is missing, for this user only. Raises StartupRefused and OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock(Path(f"{self._path}.lock"))
        if self._path.is_dir():
            raise StartupRefused(
                f"{self._path} is a directory; name the file in it, such as {self._path / 'metamorph.db'}"
            )
        # Before it is opened: within one process, closing it would unlock it for another server.
        if self._path.exists() and self._path.stat().st_nlink > 1:
            raise StartupRefused(
                f"{self._path} has another name (a hard link), and SQLite would keep a log for each; remove one of them"
            )
        self._lock(self._path)

    def release(self) -> None:
        """Releases what was acquired. May be called more than once."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _lock(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupRefused(
                f"{self._path} is in use by another server; stop that one or set DATABASE_PATH to another file"
            ) from None
