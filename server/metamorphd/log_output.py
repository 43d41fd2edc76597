"""Standard output for log lines: never blocks, never raises, drops and counts the lines that cannot be written."""

import contextlib
import os
import select
import stat
import sys
import threading
from collections import deque

# Lines that wait for the reader of standard output. Longer ones, or more, are dropped.
WAITING_BYTES = 4 * 1024 * 1024
# Time for the last lines to be written when the process ends, in case nobody reads them.
CLOSE_SECONDS = 1.0
# A pipe in non-blocking mode that is full is tried again when it can be written, or after this time.
FULL_MILLISECONDS = 100


class LogOutput:
    """Writes lines to a descriptor, in a thread of its own. Other threads may call every method.

    A blocking write to a pipe that nobody reads never returns, so the event loop must not make one. `dropped` counts
    the lines that could not be written: the disk is full, the reader has closed the pipe, or it is too slow.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # Whether the last line was cut in the middle, so that the next one must begin on a new line.
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Writes lines, each with its line break, soon. Drops them if too many are waiting."""
        with self._changed:
            if self._waiting_bytes + len(lines) > WAITING_BYTES:
                self.dropped += lines.count(b"\n")
                return
            if self._thread is None:
                # A daemon, because it may wait for a reader for ever.
                self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
                self._thread.start()
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            self._changed.notify_all()

    def flush(self) -> None:
        """Does nothing: structlog calls it after every line."""

    def close(self) -> None:
        """Returns once all lines are written or dropped, or after `CLOSE_SECONDS`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                lines = self._waiting.popleft()
            dropped = self._write(lines)
            with self._changed:
                self.dropped += dropped
                self._waiting_bytes -= len(lines)
                self._changed.notify_all()

    def _write(self, lines: bytes) -> int:
        """Writes to the descriptor. Returns how many lines were dropped."""
        rest = b"\n" + lines if self._torn else lines
        while rest:
            try:
                written = os.write(self._descriptor, rest)
                self._torn = rest[written - 1 : written] != b"\n"
                rest = rest[written:]
            except BlockingIOError:
                with contextlib.suppress(OSError):
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll(FULL_MILLISECONDS)
            except OSError:
                return min(rest.count(b"\n"), lines.count(b"\n"))
        return 0


# The process has one standard output, however many servers it runs.
STANDARD_OUTPUT = LogOutput(1)


def protect_standard_streams() -> None:
    """Makes standard streams safe for a server. Must run before other files are opened.

    A stream that is closed is opened on /dev/null, since the next file would get its descriptor, and log lines. If
    standard error is a pipe, writing to it no longer blocks: grpc writes to it in threads that serve all calls.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.platform == "linux" and stat.S_ISFIFO(os.fstat(2).st_mode):
        with contextlib.suppress(OSError):
            # Opened again, because the mode belongs to the open pipe, which other processes may share.
            own = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(own, 2)
            os.close(own)
