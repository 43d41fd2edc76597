"""Deletes files of any size without keeping anybody waiting.

A file system frees a large file as one piece of work: of ten gigabytes that takes seconds, in which it also holds up
the syncs of other files, such as the database's. It is done when the last descriptor is closed, whoever closes it.
"""

import contextlib
import fcntl
import os
import threading
import time
from io import FileIO
from pathlib import Path

STEP_BYTES = 16 * 1024 * 1024
REST_SECONDS = 0.002


def delete(path: Path) -> None:
    """Deletes a file, if it is there. Its space is freed soon, once those who read it (`open_shared`) have closed it.

    Returns at once. Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        path.unlink(missing_ok=True)
        large = os.fstat(descriptor).st_size > STEP_BYTES
    except BaseException:
        os.close(descriptor)
        raise
    if large:
        # A daemon: what is left when the process ends is freed by the kernel.
        threading.Thread(target=_free, args=(descriptor,), name="deletion", daemon=True).start()
    else:
        os.close(descriptor)


def open_shared(path: Path) -> FileIO:
    """Opens a file, which keeps its content until it is closed, also if it is deleted. Raises OSError."""
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(open(path, "rb", buffering=0))
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                opened.pop_all()
                return file
    # It was deleted since it was opened.
    raise FileNotFoundError(path)


def _free(descriptor: int) -> None:
    try:
        # Where that fails, the kernel frees it all when this, or a reader, closes it.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            left = os.fstat(descriptor).st_size
            while left:
                left = max(0, left - STEP_BYTES)
                os.ftruncate(descriptor, left)
                time.sleep(REST_SECONDS)
    finally:
        os.close(descriptor)
