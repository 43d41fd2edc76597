"""Copies the database to another file while it is written: SQLite's online backup, https://sqlite.org/backup.html.

Its steps run through the writer's connection, between two transactions. So SQLite itself keeps up to date what is
copied, and no snapshot is held, for which the write-ahead log would have to grow.
"""

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import structlog

from metamorphd.errors import StorageFull, StoreBusy, StoreNotReady
from metamorphd.store.database import Progress
from metamorphd.store.sqlite.gaps import PAGE_BYTES, Gaps
from metamorphd.store.sqlite.writer import Writer

T = TypeVar("T")

# Of the writer's time. Then it has four times as long for others.
STEP_SECONDS = 0.002
PAUSES = 4
# The pages of a step: fewer after one that took long.
FEWEST, MOST = 16, 4096
# So much is read ahead on our own thread, so that the writer does not wait for the disk.
AHEAD_BYTES = 16 * 2**20
# What is written is made durable in parts, since the last sync would take long, and forgotten by the page cache, which
# has more use for the pages of the database.
SYNC_BYTES = 2 * 2**20
# Pages that wait in memory to be written. The writer writes them at the end.
CACHE_KIB = 2048
# The writer's own cache meanwhile.
WRITER_CACHE_KIB = 8192
READ_BYTES = 2**20
LONGEST_STEP_SECONDS = 1.0
# A transaction that is rolled back begins the copy anew. Operations that are stopped for taking too long do that.
MOST_BEGINNINGS = 5

logger = structlog.get_logger(__name__)


class Copying:
    """A copy of the database to a new file. `fits` says whether there is room for so many bytes more."""

    def __init__(self, path: Path, *, writer: Writer, gaps: Gaps, fits: Callable[[int], bool]) -> None:
        self._path = path
        self._writer = writer
        self._gaps = gaps
        self._fits = fits
        self._stopped = threading.Event()
        self._synced = self._ahead = 0

    def stop(self) -> None:
        """Ends `run` soon, which raises StoreNotReady."""
        self._stopped.set()

    def run(self, progress: Progress) -> None:
        """Copies the database as it is when the last page is copied. Blocks; to be called on a thread.

        The file is durable, and without the gaps that `Gaps` clears. Raises StorageFull, StoreBusy, StoreNotReady and
        OSError, and then leaves no file.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._copy(descriptor, progress)
            self._gaps.clear_copy(descriptor)
            os.fsync(descriptor)
        except BaseException as exc:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            if isinstance(exc, apsw.FullError):
                raise StorageFull(retry_delay=None) from exc
            raise
        finally:
            self._gaps.unwatch()
            os.close(descriptor)

    def _copy(self, descriptor: int, progress: Progress) -> None:
        destination = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
                destination.execute("PRAGMA " + pragma).fetchall()
            backup = self._on_writer(lambda: self._begin(destination))
            try:
                self._step_through(backup, descriptor, progress)
            finally:
                self._on_writer(lambda: self._finish(backup))
            # The pages say that there is a write-ahead log. Alone, no second file is needed for that.
            destination.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            destination.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            destination.close()

    def _begin(self, destination: apsw.Connection) -> apsw.Backup:
        ((self._cache_size,),) = self._writer.connection.execute("PRAGMA cache_size").fetchall()
        try:
            # A transaction that is rolled back would start the copy anew.
            self._writer.isolating = True
            # Its cache has pages as they were before their gaps were cleared. All go through it, so it would grow.
            self._writer.connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}").fetchall()
            self._writer.connection.execute("PRAGMA shrink_memory").fetchall()
            self._gaps.watch()
            return destination.backup("main", self._writer.connection, "main")
        except BaseException:
            self._release_writer()
            raise

    def _finish(self, backup: apsw.Backup) -> None:
        try:
            backup.finish()
        finally:
            self._release_writer()

    def _release_writer(self) -> None:
        self._writer.isolating = False
        self._writer.connection.execute(f"PRAGMA cache_size = {self._cache_size}").fetchall()

    def _step_through(self, backup: apsw.Backup, descriptor: int, progress: Progress) -> None:
        pages, copied, done, beginnings = FEWEST, 0, False, 1
        while not done:
            self._read_ahead(copied)
            if self._stopped.is_set():
                raise StoreNotReady(retry_delay=None)
            done, seconds = self._on_writer(partial(_step, backup, pages))
            before, copied = copied, backup.page_count - backup.remaining
            if not done and copied < before + pages:
                beginnings += 1
                logger.warning("the copy of the database begins anew: a transaction was rolled back", times=beginnings)
                if beginnings > MOST_BEGINNINGS:
                    raise StoreBusy(retry_delay=None)
                self._synced = self._ahead = 0
            progress(copied / max(backup.page_count, 1))
            if seconds > STEP_SECONDS:
                pages = max(pages // 2, FEWEST)
            elif seconds < STEP_SECONDS / 2:
                pages = min(pages * 2, MOST)
            # More than what is left of it may be written meanwhile, also by others.
            if not self._fits(backup.remaining * PAGE_BYTES):
                raise StorageFull(retry_delay=None)
            self._sync(descriptor, copied)
            time.sleep(min(seconds, LONGEST_STEP_SECONDS) * PAUSES)

    def _read_ahead(self, copied: int) -> None:
        end = copied * PAGE_BYTES + AHEAD_BYTES
        self._ahead = max(self._ahead, copied * PAGE_BYTES)
        # Half of it at once, and none at most steps.
        if end - self._ahead < AHEAD_BYTES // 2:
            return
        while self._ahead < end and (read := len(os.pread(self._gaps.file, READ_BYTES, self._ahead))):
            self._ahead += read

    def _sync(self, descriptor: int, copied: int) -> None:
        if copied * PAGE_BYTES - self._synced >= SYNC_BYTES:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, self._synced, SYNC_BYTES, os.POSIX_FADV_DONTNEED)
            self._synced = copied * PAGE_BYTES

    def _on_writer(self, task: Callable[[], T]) -> T:
        """Runs a task on the writer's thread, between two transactions, and returns its result."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(task())
            except BaseException as exc:  # It is the copy's, and must not end the writer.
                future.set_exception(exc)

        self._writer.between_writes(run)
        while True:
            try:
                return future.result(timeout=1.0)
            except concurrent.futures.TimeoutError:
                if self._writer.failed.is_set():
                    raise StoreNotReady(retry_delay=None) from None


def _step(backup: apsw.Backup, pages: int) -> tuple[bool, float]:
    """Copies pages, and returns whether they were the last ones, and how long it took."""
    began = time.perf_counter()
    done = backup.step(pages)
    return done, time.perf_counter() - began
