"""The writer: one thread that commits waiting operations in groups."""

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw
import structlog

from metamorphd.errors import DomainError, OperationTimeout, StorageFull, StoreBusy, StoreNotReady
from metamorphd.store.sqlite.fair_queue import FairQueue
from metamorphd.store.sqlite.log import Log
from metamorphd.store.sqlite.measures import StoreMetrics
from metamorphd.store.sqlite.transaction import Bound, drive
from metamorphd.store.sqlite.waiting import Waiting

T = TypeVar("T")

# The most operations that wait, of all vaults and of one.
WRITE_QUEUE = 8192
VAULT_QUEUE = 1024
# A batch ends after so many operations, or with the operation that brings it to so many seconds.
BATCH = 256
BATCH_SECONDS = 0.01
# An operation is stopped after so many seconds. SQLite checks the time after so many steps of a statement.
JOB_SECONDS = 0.25
JOB_STEPS = 10_000
# A write that was committed so many seconds ago proves that writing works; a new one must succeed within so many.
PROOF_SECONDS = 3.0
PROBE_SECONDS = 2.0
BUSY_SECONDS = 1.0

logger = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Job(Waiting):
    """An operation that waits for the writer. One that is `refused` does not run again: its error is final.

    `committed` is called on the event loop once it is committed, also if its caller is gone.
    """

    refused: bool = False
    committed: Callable[[], None] | None = None


class Writer:
    """Owns the connection that writes. Jobs are answered after the COMMIT that holds them; see `_run_batch`.

    Vaults that wait have equal time of the thread. So the first write of a vault waits for the batch that runs, and for
    one operation of each vault that came before it, however many those have waiting and however long each takes.
    """

    def __init__(self, connection: apsw.Connection, *, log: Log, metrics: StoreMetrics) -> None:
        self.connection = connection
        self._log = log
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        # Only for the writer's thread.
        self._waiting: FairQueue[Job] = FairQueue()
        self._closing = False
        self._job_until = float("inf")
        # Only for the event loop's thread; from the call to its answer.
        self._unanswered: set[Job] = set()
        self._unanswered_of: Counter[str] = Counter()
        self._probe: asyncio.Task[None] | None = None
        self.isolating = False
        """Whether each operation has its own savepoint from the beginning, so that none spoils a batch. Only for the
        writer's thread."""
        self.failed = asyncio.Event()
        connection.set_progress_handler(self._late, JOB_STEPS)
        self._thread = threading.Thread(target=self._write_forever, name="sqlite-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Returns how many operations wait or run."""
        return len(self._unanswered)

    async def write(self, bound: Bound[T], *, vault_id: str, committed: Callable[[], None] | None = None) -> T:
        """Runs an operation; returns once it is durable, after `committed` was called.

        Raises what the operation raises, StoreBusy if too many wait, OperationTimeout, StorageFull, and StoreNotReady
        if the writer has failed.
        """
        if self.failed.is_set():
            raise StoreNotReady(retry_delay=BUSY_SECONDS)
        if len(self._unanswered) >= WRITE_QUEUE or self._unanswered_of[vault_id] >= VAULT_QUEUE:
            raise StoreBusy(retry_delay=BUSY_SECONDS)
        job = Job(vault_id, bound, self._loop.create_future(), committed=committed)
        self._unanswered.add(job)
        self._unanswered_of[vault_id] += 1
        self._arrived.put(job)
        result: T = await job.future
        return result

    async def probe(self) -> None:
        """Returns if a write was committed a moment ago, or else can be now. Raises what prevents it.

        The write changes one page, and no row. Concurrent callers share it.
        """
        if not self.failed.is_set() and time.monotonic() < self._log.written + PROOF_SECONDS:
            return
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self.write(_rewrite_header, vault_id=""))
            # If all callers gave up, nobody else retrieves it.
            self._probe.add_done_callback(lambda probe: probe.cancelled() or probe.exception())
        async with asyncio.timeout(PROBE_SECONDS):
            await asyncio.shield(self._probe)

    def between_writes(self, task: Callable[[], None]) -> None:
        """Runs a task on the writer's thread, between two transactions. May be called from any thread."""
        self._arrived.put(task)

    async def close(self) -> None:
        """Finishes the waiting operations; the connection stays open."""
        self._arrived.put(None)
        await asyncio.to_thread(self._thread.join)

    def _write_forever(self) -> None:
        try:
            while self._receive():
                began = time.monotonic()
                jobs = self._run_batch()
                self._metrics.commit_operations.add(len(jobs))
                self._metrics.commit_seconds.add(time.monotonic() - began)
                self._loop.call_soon_threadsafe(self._answer, jobs)
                # Their arguments, possibly megabytes, would stay in memory until the next batch.
                del jobs
                self._log.bound()
        except BaseException as exc:
            # First, because writing to the log may fail too.
            self._loop.call_soon_threadsafe(self._fail)
            logger.critical("the database's writer failed and cannot go on", exc_info=exc)

    def _receive(self) -> bool:
        """Waits until there are operations, and returns whether there are any: none are left after `close`."""
        while not self._closing and (not self._waiting or not self._arrived.empty()):
            arrived = self._arrived.get()
            if arrived is None:
                self._closing = True
            elif isinstance(arrived, Job):
                self._waiting.put(arrived.vault_id, arrived)
            else:
                arrived()
        return bool(self._waiting)

    def _answer(self, jobs: Sequence[Job]) -> None:
        self._unanswered.difference_update(jobs)
        for job in jobs:
            self._unanswered_of[job.vault_id] -= 1
            if not self._unanswered_of[job.vault_id]:
                del self._unanswered_of[job.vault_id]
            if job.error is None and job.committed is not None:
                job.committed()
            job.answer()

    def _fail(self) -> None:
        self.failed.set()
        jobs = list(self._unanswered)
        for job in jobs:
            job.error = StoreNotReady(retry_delay=BUSY_SECONDS)
        self._answer(jobs)

    def _run_batch(self) -> list[Job]:
        """Runs a batch of the waiting operations in one transaction, and returns them.

        At first there are no savepoints: statements release the GIL, and few are faster. An operation that raises after
        it has changed something spoils that, and the batch runs again, each operation in a savepoint of its own. If
        even so the transaction is lost, as it is when the disk is full, each operation has its own transaction.

        An operation that takes longer than a batch is its last, so it never runs twice because another one raised.
        """
        jobs: list[Job] = []
        if self._commit(self._batch(jobs), isolated=self.isolating):
            return jobs
        again = [job for job in jobs if not job.refused]
        if len(again) == 1 or (again and not self._commit(again, isolated=True)):
            for job in again:
                self._run_alone(job)
        return jobs

    def _batch(self, jobs: list[Job]) -> Iterator[Job]:
        """Yields waiting operations until a batch is full, and appends them to `jobs`."""
        now = time.monotonic()
        until = now + BATCH_SECONDS
        while len(jobs) < BATCH and (job := self._waiting.take()) is not None:
            self._metrics.write_wait.add(now - job.since)
            jobs.append(job)
            yield job
            began, now = now, time.monotonic()
            self._waiting.charge(job.vault_id, now - began)
            if now > until:
                break

    def _run_alone(self, job: Job) -> None:
        """Runs a job in its own transaction: what fails in it, the job or its COMMIT, is the job's error."""
        if not job.refused and not self._commit([job], isolated=False) and job.error is None:
            job.error = RuntimeError("the transaction was lost")

    def _commit(self, jobs: Iterable[Job], *, isolated: bool) -> bool:
        """Returns whether all jobs were run and committed; otherwise none has changed anything."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as exc:
            for job in jobs:
                job.error, job.refused = _translated(exc), True
            return False
        if all(self._run_job(job, isolated=isolated) for job in jobs):
            try:
                self.connection.execute("COMMIT")
            except apsw.Error as exc:
                for job in jobs:
                    job.error = job.error or _translated(exc)
            else:
                return True
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        return False

    def _run_job(self, job: Job, *, isolated: bool) -> bool:
        """Runs a job, and returns whether the transaction is as if it had succeeded, or had not run."""
        job.result = job.error = None
        if isolated:
            self.connection.execute("SAVEPOINT job")
        before, began = self.connection.total_changes(), time.monotonic()
        self._job_until = began + JOB_SECONDS
        try:
            job.result = drive(job.bound(self.connection))
        except BaseException as exc:  # Whatever it is, it belongs to the caller, not to this thread.
            job.error = _translated(exc)
            job.refused = time.monotonic() > began + BATCH_SECONDS
        finally:
            self._job_until = float("inf")
        # Disk full, an I/O error or an interrupt roll back the whole transaction, savepoints included; the next
        # savepoint would then commit on its own.
        if not self.connection.in_transaction:
            return False
        unchanged = job.error is None or self.connection.total_changes() == before
        if isolated:
            if not unchanged:
                self.connection.execute("ROLLBACK TO job")
            self.connection.execute("RELEASE job")
        return isolated or unchanged

    def _late(self) -> bool:
        """Called every so many steps of a statement; true stops it."""
        return time.monotonic() > self._job_until


async def _rewrite(connection: apsw.Connection) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    connection.execute(f"PRAGMA user_version = {version}")


def _rewrite_header(connection: apsw.Connection) -> Any:
    """Writes the file's header as it is, which takes the log, its lock and a sync like any other write."""
    return _rewrite(connection)


def _translated(exc: BaseException) -> BaseException:
    translated: DomainError
    match exc:
        case apsw.FullError():
            translated = StorageFull(retry_delay=30.0)
        case apsw.BusyError():
            translated = StoreBusy(retry_delay=BUSY_SECONDS)
        case apsw.InterruptError():
            translated = OperationTimeout(limit_milliseconds=int(JOB_SECONDS * 1000))
        case _:
            return exc
    translated.__cause__ = exc
    return translated
