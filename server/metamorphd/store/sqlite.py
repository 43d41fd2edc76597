"""SQLite through APSW: one writer thread that commits in groups, a few readers, one of them inline."""

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw

from metamorphd.errors import DomainError, StartupRefused, StorageFull, StoreBusy, StoreNotReady
from metamorphd.store import migrations
from metamorphd.store.database import (
    Operation,
    P,
    Row,
    SqlValue,
    SystemOperation,
    SystemTransaction,
    Transaction,
    is_point_read,
)

T = TypeVar("T")

# "MTMF": tells our files from any other SQLite database.
APPLICATION_ID = 0x4D544D46
WRITE_QUEUE = 4096
BATCH = 256
READERS = 4
QUICK_CHECK_OK = [("ok",)]


class _Connected:
    """Runs statements on a connection; `fixed` parameters win over given ones."""

    def __init__(self, connection: apsw.Connection, **fixed: SqlValue) -> None:
        self._connection = connection
        self._fixed = fixed

    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        rows = self._connection.execute(sql, parameters | self._fixed).fetchall()
        return rows[0] if rows else None

    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        return self._connection.execute(sql, parameters | self._fixed).fetchall()

    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        self._connection.execute(sql, parameters | self._fixed)
        return self._connection.changes()


class _Tenant(_Connected, Transaction):
    pass


class _System(_Connected, SystemTransaction):
    pass


# An operation with its arguments and its vault, waiting for a connection.
Bound = Callable[[apsw.Connection], Coroutine[Any, Any, T]]


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs an operation to its end. Its transaction never suspends, so neither may the operation."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a store operation awaited something other than its transaction")


@dataclass(slots=True)
class _Job:
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


class SqliteDatabase:
    """A database file and those that work on it. See `Database` for what the methods promise.

    `synchronous` is FULL or NORMAL; `vfs` names a registered SQLite VFS, None is the default one.
    """

    engine = "sqlite"

    def __init__(self, *, path: Path, synchronous: str, vfs: str | None = None) -> None:
        self._path = path
        self._synchronous = synchronous
        self._vfs = vfs
        self._lock_file: int | None = None
        self._connections: list[apsw.Connection] = []
        self._open = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._open_files)
        except (apsw.Error, OSError) as exc:
            self._unlock()
            raise StartupRefused(
                f"{self._path} cannot be opened as a SQLite database ({exc}); is its directory writable for this user?"
            ) from exc
        except StartupRefused:
            self._unlock()
            raise
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Counted on the event loop's thread alone, from the call to its answer.
        self._waiting = 0
        self._thread = threading.Thread(target=self._write_forever, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")
        self._open = True

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in reversed(self._connections):
            connection.close()
        self._connections.clear()
        self._unlock()

    async def read(self, operation: Operation[P, T], vault_id: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def bound(connection: apsw.Connection) -> Coroutine[Any, Any, T]:
            return operation(_Tenant(connection, vault_id=vault_id), *args, **kwargs)

        if is_point_read(operation):
            if not self._open:
                raise StoreNotReady(retry_delay=1.0)
            return _drive(bound(self._inline))
        return await self._read(bound)

    async def write(self, operation: Operation[P, T], vault_id: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._write(lambda connection: operation(_Tenant(connection, vault_id=vault_id), *args, **kwargs))

    async def read_system(self, operation: SystemOperation[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read(lambda connection: operation(_System(connection), *args, **kwargs))

    async def write_system(self, operation: SystemOperation[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._write(lambda connection: operation(_System(connection), *args, **kwargs))

    async def versions(self) -> tuple[str, int]:
        return apsw.sqlite_lib_version(), migrations.load("sqlite")[-1][0]

    async def _read(self, bound: Bound[T]) -> T:
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        return await self._loop.run_in_executor(self._readers, self._read_on_thread, bound)

    def _read_on_thread(self, bound: Bound[T]) -> T:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(readonly=True)
        # One snapshot for all of the operation's statements.
        connection.execute("BEGIN")
        try:
            return _drive(bound(connection))
        finally:
            connection.execute("ROLLBACK")

    async def _write(self, bound: Bound[T]) -> T:
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        if self._waiting >= WRITE_QUEUE:
            raise StoreBusy(retry_delay=1.0)
        job = _Job(bound, self._loop.create_future())
        self._waiting += 1
        self._queue.put(job)
        result: T = await job.future
        return result

    def _write_forever(self) -> None:
        closing = False
        while not closing:
            jobs: list[_Job] = []
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

    def _answer(self, jobs: Sequence[_Job]) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            job.answer()

    def _run_batch(self, jobs: Sequence[_Job]) -> None:
        """One transaction for all jobs, at first without savepoints: statements let go of the GIL, and few are faster.

        A job that raises spoils that, and all are run again, each in a savepoint of its own. If even so the transaction
        is lost, as a full disk loses it, each job stands alone.
        """
        if len(jobs) > 1 and any(self._commit(jobs, isolated=isolated) for isolated in (False, True)):
            return
        for job in jobs:
            self._run_alone(job)

    def _run_alone(self, job: _Job) -> None:
        """A transaction of its own: what fails in it, the job or its COMMIT, is the job's error."""
        if not self._commit([job], isolated=False) and job.error is None:
            job.error = RuntimeError("the transaction was lost")

    def _commit(self, jobs: Sequence[_Job], *, isolated: bool) -> bool:
        """Whether all jobs were run and committed; otherwise none has changed anything."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_job(job, isolated=isolated)
                # Disk full, an I/O error or an interrupt roll back the whole transaction, savepoints included; the
                # next savepoint would then commit on its own.
                if (job.error is not None and not isolated) or not self._writer.in_transaction:
                    break
            else:
                self._writer.execute("COMMIT")
                return True
        except apsw.Error as exc:
            jobs[0].error = _translated(exc)
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        return False

    def _run_job(self, job: _Job, *, isolated: bool) -> None:
        job.result = job.error = None
        if isolated:
            self._writer.execute("SAVEPOINT job")
        try:
            job.result = _drive(job.bound(self._writer))
        except BaseException as exc:  # Whatever it is, it belongs to the caller, not to this thread.
            job.error = _translated(exc)
            if isolated and self._writer.in_transaction:
                self._writer.execute("ROLLBACK TO job")
        if isolated and self._writer.in_transaction:
            self._writer.execute("RELEASE job")

    def _open_files(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock()
        self._writer = self._connect(readonly=False)
        if self._writer.execute("PRAGMA quick_check(1)").fetchall() != QUICK_CHECK_OK:
            raise StartupRefused(f"{self._path} is damaged (PRAGMA quick_check); restore it from a backup")
        migrate(self._writer, self._path)
        self._inline = self._connect(readonly=True)

    def _connect(self, *, readonly: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if readonly else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(str(self._path), flags=flags, vfs=self._vfs)
        self._connections.append(connection)
        for pragma in _pragmas(synchronous=self._synchronous, readonly=readonly):
            connection.execute("PRAGMA " + pragma).fetchall()
        return connection

    def _lock(self) -> None:
        """One server a file: flock on a file beside it, which the system releases however the process ends."""
        self._lock_file = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupRefused(
                f"{self._path} is in use by another server; stop that one or set DATABASE_PATH to another file"
            ) from None

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _pragmas(*, synchronous: str, readonly: bool) -> Iterable[str]:
    yield "busy_timeout = 5000"
    yield "foreign_keys = ON"
    if readonly:
        yield "query_only = ON"
        # The guide's 64 MB is one connection's; five more of that size would be the container's memory.
        yield "cache_size = -8000"
    else:
        yield "journal_mode = WAL"
        yield f"synchronous = {synchronous}"
        yield "cache_size = -64000"
        yield "journal_size_limit = 67108864"


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


def _number(connection: apsw.Connection, sql: str) -> int:
    ((value,),) = connection.execute(sql).fetchall()
    return int(value or 0)


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Brings a database to the newest version, each step in its own transaction. Raises StartupRefused."""
    application_id = _number(connection, "PRAGMA application_id")
    applied = _number(connection, "PRAGMA user_version")
    if application_id != APPLICATION_ID and (
        application_id or applied or _number(connection, "SELECT COUNT(*) FROM sqlite_schema")
    ):
        raise StartupRefused(f"{path} belongs to another program; set DATABASE_PATH to a file of Metamorph's own")
    steps = migrations.load("sqlite")
    newest, _ = steps[-1]
    if applied > newest:
        raise StartupRefused(f"{path} was written by a newer server (schema {applied}, this one knows {newest})")
    for version, statements in steps:
        if version > applied:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(statements).fetchall()
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
