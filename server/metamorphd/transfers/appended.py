"""The file of an export, to which records are appended."""

import hashlib
from collections.abc import Callable
from io import FileIO

from metamorphd.durable import Appending
from metamorphd.models.export import Records

# Space is asked for ahead, since many pages may be written until it is asked for again.
AHEAD_BYTES = 16 * 1024 * 1024


class Appended:
    """Appends records to an empty file that has no buffer. `kept` is how many of its bytes are of whole records, which
    stay.

    Methods block, and raise OSError and what `require_space` raises, which is called with a number of bytes.
    """

    def __init__(self, file: FileIO, *, require_space: Callable[[int], None]) -> None:
        self._file, self._appending = file, Appending(file)
        self._require_space = require_space
        self._ahead = self._size = 0
        self._hashed = self._hashed_kept = hashlib.sha256()
        self.kept = 0

    @property
    def sha256(self) -> str:
        """Returns the SHA-256 of what is kept, in hexadecimal."""
        return self._hashed_kept.hexdigest()

    def add(self, records: Records) -> None:
        """Appends records, after what they leave out is taken back."""
        if records.broken:
            self._file.truncate(self.kept)
            self._size, self._hashed = self.kept, self._hashed_kept.copy()
        if records.lines:
            self._append(records.lines)
            self.kept, self._hashed_kept = self._size, self._hashed.copy()
        if records.begun:
            self._append(records.begun)

    def _append(self, lines: bytes) -> None:
        self._ahead -= len(lines)
        if self._ahead < 0:
            self._ahead = AHEAD_BYTES
            self._require_space(AHEAD_BYTES + len(lines))
        self._appending.append(lines)
        self._hashed.update(lines)
        self._size += len(lines)
