"""The write-ahead log, which is kept short.

SQLite starts it anew only at a moment when all of it is copied into the database and no snapshot needs it. With readers
that overlap there is no such moment by itself, and the log grows without end. A checkpoint within a commit, as SQLite
does it by default, makes that commit wait for the copying.
"""

import queue
import threading
import time
from collections.abc import Callable

import apsw
import structlog

from metamorphd.store.sqlite.gaps import FRAME_HEADER_BYTES, PAGE_BYTES, Gaps
from metamorphd.store.sqlite.gate import Gate

FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
# So much is copied at a time, while commits and reads go on.
COPY_BYTES = 4 * 2**20
# The log is begun anew once it has so much, nearly all is copied, and no snapshot is open for longer than a moment.
EMPTY_BYTES = 12 * 2**20
# So often, and when it is full, it is cut to nothing too, so that no frame of what was erased stays. That takes some
# 20 ms more, and reads that take longer have to begin again.
TRUNCATE_SECONDS = 60.0
# Commits wait for it at this size. A batch may add the largest request, of 32 MiB, and all stays below 64 MiB.
FULL_BYTES = 24 * 2**20
# The longest wait for a snapshot that is not ours, and the pause before the next attempt.
BUSY_MILLISECONDS = 100
RETRY_SECONDS = 1.0
# The pause while another program keeps a snapshot, as Litestream does, which then empties the log itself.
SHARED_SECONDS = 5.0
# The pause after a snapshot was in the way, while the log may still grow, and after one that did not end when asked to.
PUT_OFF_SECONDS = 0.5
HURRIED_SECONDS = 5.0
BUSY_TIMEOUT = 5000

logger = structlog.get_logger(__name__)

# Runs a task on the writer's thread, between two transactions.
BetweenWrites = Callable[[Callable[[], None]], None]


class Log:
    """Copies the log on a thread of its own. Empties it on the writer's, while the gate keeps snapshots away.

    Of the pages that it copies it has the gaps cleared.
    """

    def __init__(
        self, *, connection: apsw.Connection, connect: Callable[[], apsw.Connection], gate: Gate, gaps: Gaps
    ) -> None:
        self._connection = connection
        self._connect = connect
        self._gate = gate
        self._gaps = gaps
        self._pages = self._copied = 0
        self._has_old_frames = False
        self._truncated = self._tried = time.monotonic()
        self._put_off = float("-inf")
        # Whether another program's snapshot was in the way.
        self._shared = False
        # Two checkpoints at once are an error.
        self._checkpoint = threading.Lock()
        self._copy: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._copying = False
        self.written = float("-inf")
        """When something was last committed, by the monotonic clock."""
        connection.set_wal_hook(self._committed)

    def start(self, between_writes: BetweenWrites) -> None:
        """Starts the thread."""
        self._between_writes = between_writes
        self._thread = threading.Thread(target=self._copy_forever, name="sqlite-checkpointer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and waits for it."""
        self._copy.put(False)
        self._thread.join()

    def cut(self) -> None:
        """Empties the log and truncates its file, unless a snapshot needs it. Makes durable what was cleared.

        To be called on the writer's thread, or once that has ended.
        """
        self._truncated = float("-inf")
        self._empty()

    def sweep(self) -> bool:
        """Clears gaps that a crash left. Returns whether there are more."""
        with self._checkpoint:
            return self._gaps.sweep()

    def bound(self) -> None:
        """Empties the log if it is full, or has it copied. To be called on the writer's thread after each batch."""
        retry = self._tried + (SHARED_SECONDS if self._shared else RETRY_SECONDS)
        if self._pages * FRAME_BYTES >= FULL_BYTES and time.monotonic() > retry:
            self._empty()
        elif (self._pages - self._copied) * FRAME_BYTES >= COPY_BYTES and not self._copying:
            self._copying = True
            self._copy.put(True)

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._pages:
            # SQLite has started the log anew.
            self._copied = 0
        self._gaps.note(pages)
        self._pages = pages
        self.written = time.monotonic()
        return apsw.SQLITE_OK

    def _copy_forever(self) -> None:
        connection = self._connect()
        while True:
            try:
                # More often, so that a log that is a little too young now does not wait as long again.
                if not self._copy.get(timeout=TRUNCATE_SECONDS / 4):
                    break
            except queue.Empty:
                if not self._pages and not self._has_old_frames:
                    continue
            self._copied = self._run(connection, "PASSIVE", self._copied)
            self._copying = False
            due = self._pages * FRAME_BYTES >= EMPTY_BYTES or self._is_old()
            if due and time.monotonic() > self._put_off:
                self._between_writes(self._empty)

    def _is_old(self) -> bool:
        return time.monotonic() > self._truncated + TRUNCATE_SECONDS

    def _empty(self) -> None:
        # First all that can be copied while snapshots are taken, so that they wait for the rest only.
        self._copied = self._run(self._connection, "PASSIVE", self._copied)
        # A snapshot that was in the way before is not waited for, nor are ours asked to end in vain.
        self._connection.set_busy_timeout(0 if self._shared else BUSY_MILLISECONDS)
        full = self._pages * FRAME_BYTES >= FULL_BYTES
        truncate = full or self._is_old()
        with self._gate.closed(hurry=truncate and not self._shared) as alone:
            left = self._run(self._connection, "TRUNCATE" if truncate else "RESTART", -1) if alone or full else -1
        self._connection.set_busy_timeout(BUSY_TIMEOUT)
        self._shared = left < 0 and (alone or self._shared)
        if full:
            self._tried = time.monotonic()
        if left < 0:
            longer = SHARED_SECONDS if self._shared else PUT_OFF_SECONDS
            self._put_off = time.monotonic() + (HURRIED_SECONDS if truncate else longer)
        else:
            self._pages = self._copied = 0
            self._has_old_frames = not truncate
            if truncate:
                self._truncated = time.monotonic()
            # Its cache has copies of deleted rows, which it would write again.
            self._connection.execute("PRAGMA shrink_memory").fetchall()
            self._gaps.sync()

    def _run(self, connection: apsw.Connection, mode: str, otherwise: int) -> int:
        """Runs a checkpoint, and returns how many pages of the log are copied; if it could not, `otherwise`."""
        with self._checkpoint:
            begun = self._gaps.begun
            try:
                ((busy, _, copied),) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            except apsw.Error as exc:
                # As when the disk is full. The log keeps what was committed.
                logger.warning("the write-ahead log cannot be copied", error=str(exc))
                return otherwise
            if busy:
                return otherwise
            all_copied = mode != "PASSIVE"
            self._gaps.clear(None if all_copied else max(begun + int(str(copied)), self._gaps.begun))
        return int(str(copied))
