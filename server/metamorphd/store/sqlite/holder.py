"""Who else holds SQLite's locks on a database."""

import contextlib
import os
from pathlib import Path

LOCKS = Path("/proc/locks")


def holder_of(path: Path) -> str | None:
    """Returns a process that has locked a database against writing, by number and name. None if there is none.

    Locks of the same process are not meant. None also where the system does not say: a process in another container
    is not seen.
    """
    files = set()
    # With a log, the lock of writing is on its index.
    for suffix in ("", "-shm"):
        with contextlib.suppress(OSError):
            stated = os.stat(f"{path}{suffix}")
            device = f"{os.major(stated.st_dev):02x}:{os.minor(stated.st_dev):02x}"
            files.add(f"{device}:{stated.st_ino}")
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # `1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 120 120`, and `->` before those who wait.
        fields = line.split()
        if fields[1:2] != ["POSIX"] or fields[3:4] != ["WRITE"] or fields[5] not in files:
            continue
        process = int(fields[4])
        if process > 0 and process != os.getpid():
            return f"process {process}{_name(process)}"
    return None


def _name(process: int) -> str:
    try:
        return f" ({Path(f'/proc/{process}/comm').read_text().strip()})"
    except OSError:
        return ""
