"""The history of what was typed, in a file."""

import json
import os
from contextlib import suppress
from pathlib import Path

from metamorphd.durable import replacing

# A file of more is begun anew, with the newest half.
LARGEST_FILE = 1024 * 1024


class History:
    """The texts that were typed, a line of JSON each, in a file that only its user can read. None keeps nothing.

    A file that cannot be read or written is as if it were empty.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> list[str]:
        """Returns the texts, oldest first."""
        if self._path is None:
            return []
        with suppress(OSError):
            lines = self._path.read_bytes()[-LARGEST_FILE:].split(b"\n")
            return [text for line in lines if (text := _text(line))]
        return []

    def add(self, text: str) -> None:
        """Appends a text."""
        if self._path is None:
            return
        line = json.dumps(text).encode() + b"\n"
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(line) <= LARGEST_FILE // 2:
                self._append(self._path, line)

    def _append(self, path: Path, line: bytes) -> None:
        with open(path, "ab", opener=_private) as file:
            # It may have been made by somebody else's rules.
            os.fchmod(file.fileno(), 0o600)
            file.write(line)
            if file.tell() <= LARGEST_FILE:
                return
        newest = path.read_bytes()[-LARGEST_FILE // 2 :].partition(b"\n")[2]
        with replacing(path) as smaller:
            smaller.write(newest.decode(errors="replace"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _text(line: bytes) -> str | None:
    try:
        text = json.loads(line)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
