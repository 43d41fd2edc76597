"""The writer: one thread that commits what waits in groups."""

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw

from metamorphd.errors import DomainError, StorageFull, StoreBusy
from metamorphd.store.sqlite.transaction import Bound, drive

T = TypeVar("T")

WRITE_QUEUE = 4096
BATCH = 256


@dataclass(slots=True)
class Job:
    bound: Bound[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Writer:
    """Owns the connection that writes. Jobs are answered after the COMMIT that holds them; see `_run_batch`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # Counted on the event loop's thread alone, from the call to its answer.
        self._waiting = 0
        self._thread = threading.Thread(target=self._write_forever, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def write(self, bound: Bound[T]) -> T:
        """Runs an operation; returns once it is durable. Raises StoreBusy, StorageFull, and what it raises."""
        if self._waiting >= WRITE_QUEUE:
            raise StoreBusy(retry_delay=1.0)
        job = Job(bound, self._loop.create_future())
        self._waiting += 1
        self._queue.put(job)
        result: T = await job.future
        return result

    async def close(self) -> None:
        """Finishes what waits; the connection stays open."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _write_forever(self) -> None:
        closing = False
        while not closing:
            jobs: list[Job] = []
            waiting = self._queue.get()
            while waiting is not None:
                jobs.append(waiting)
                if len(jobs) == BATCH:
                    break
                try:
                    waiting = self._queue.get_nowait()
                except queue.Empty:
                    break
            closing = waiting is None
            if jobs:
                self._run_batch(jobs)
                self._loop.call_soon_threadsafe(self._answer, jobs)

    def _answer(self, jobs: Sequence[Job]) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            job.answer()

    def _run_batch(self, jobs: Sequence[Job]) -> None:
        """One transaction for all jobs, at first without savepoints: statements let go of the GIL, and few are faster.

        A job that raises spoils that, and all are run again, each in a savepoint of its own. If even so the transaction
        is lost, as a full disk loses it, each job stands alone.
        """
        if len(jobs) > 1 and any(self._commit(jobs, isolated=isolated) for isolated in (False, True)):
            return
        for job in jobs:
            self._run_alone(job)

    def _run_alone(self, job: Job) -> None:
        """A transaction of its own: what fails in it, the job or its COMMIT, is the job's error."""
        if not self._commit([job], isolated=False) and job.error is None:
            job.error = RuntimeError("the transaction was lost")

    def _commit(self, jobs: Sequence[Job], *, isolated: bool) -> bool:
        """Whether all jobs were run and committed; otherwise none has changed anything."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_job(job, isolated=isolated)
                # Disk full, an I/O error or an interrupt roll back the whole transaction, savepoints included; the
                # next savepoint would then commit on its own.
                if (job.error is not None and not isolated) or not self.connection.in_transaction:
                    break
            else:
                self.connection.execute("COMMIT")
                return True
        except apsw.Error as exc:
            jobs[0].error = _translated(exc)
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        return False

    def _run_job(self, job: Job, *, isolated: bool) -> None:
        job.result = job.error = None
        if isolated:
            self.connection.execute("SAVEPOINT job")
        try:
            job.result = drive(job.bound(self.connection))
        except BaseException as exc:  # Whatever it is, it belongs to the caller, not to this thread.
            job.error = _translated(exc)
            if isolated and self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO job")
        if isolated and self.connection.in_transaction:
            self.connection.execute("RELEASE job")


def _translated(exc: BaseException) -> BaseException:
    translated: DomainError
    match exc:
        case apsw.FullError():
            translated = StorageFull(retry_delay=30.0)
        case apsw.BusyError():
            translated = StoreBusy(retry_delay=1.0)
        case _:
            return exc
    translated.__cause__ = exc
    return translated
