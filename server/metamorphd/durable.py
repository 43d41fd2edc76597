"""Files that are there after a power failure."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Returns once what was created, renamed and deleted in a directory is durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
