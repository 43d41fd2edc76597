"""A backup that takes as long to read as a test wants."""

import os
from collections.abc import Callable
from pathlib import Path


def slow_backup(file: Path) -> Callable[[], None]:
    """Makes a file that who reads it waits for. Returns what ends the wait: the file is an empty one then."""
    os.mkfifo(file)

    def end() -> None:
        # Waits for the reader, which has what it opened, and finds the other file when it opens it again.
        with file.open("wb"):
            file.unlink()
            file.touch()

    return end
