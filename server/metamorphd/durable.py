"""Files that are there after a power failure."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TextIO

# What a large file has in memory only, the database's own syncs may wait for.
SYNC_BYTES = 16 * 1024 * 1024


class Appending:
    """Appends to a file, which is made durable every SYNC_BYTES. Methods block, and raise OSError."""

    def __init__(self, file: FileIO) -> None:
        """The file has no buffer."""
        self._file = file
        self._unsynced = 0

    def append(self, data: bytes) -> None:
        """Returns once all of `data` is written. Its last bytes need not be durable."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            os.fdatasync(self._file.fileno())
            self._unsynced = 0


def sync_directory(directory: Path) -> None:
    """Returns once what was created, renamed and deleted in a directory is durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Yields a file that only its user can read, and that takes the place of `path`, durably, once the block has ended.

    If the block raises, `path` is as it was. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
