"""Copies of another server's database: the newest is served, and none of them is ever written."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import apsw
import structlog
from prometheus_client.registry import Collector

from metamorphd.durable import sync_directory
from metamorphd.errors import ReadOnly, ReplicaFailed, StartupRefused, StoreNotReady
from metamorphd.models.backup import Inspection
from metamorphd.models.caller import Scope
from metamorphd.models.store_check import StoreCheck
from metamorphd.priority import lower_priority
from metamorphd.store import migrations
from metamorphd.store.database import (
    Listener,
    Operation,
    P,
    Progress,
    SystemOperation,
    is_point_read,
    is_search_read,
)
from metamorphd.store.sqlite.gate import Gate
from metamorphd.store.sqlite.inspection import inspect
from metamorphd.store.sqlite.lock import Lock
from metamorphd.store.sqlite.measures import StoreMetrics
from metamorphd.store.sqlite.migrate import migrate
from metamorphd.store.sqlite.readers import Readers
from metamorphd.store.sqlite.transaction import SqliteSystemTransaction, SqliteTransaction, drive

T = TypeVar("T")

logger = structlog.get_logger(__name__)


class SqliteReplica:
    """Serves a copy, until `adopt` puts a newer one in its place. See `Database` for what the methods promise.

    Copies are files beside `path`, which itself is left alone. The newest one stays when this is left, and is served
    again. `primary` is the address of the server that writes, for refusals.
    """

    engine = "sqlite"
    # By the lock.
    exclusive = True
    # None is ever open for writing.
    clean = True

    def __init__(self, *, path: Path, primary: str) -> None:
        self._base = Path(f"{os.path.realpath(path)}-replica")
        self._primary = primary
        self._lock = Lock(self._base)
        self._metrics = StoreMetrics()
        # Checking reads all of a copy, and calls go first.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replica", initializer=lower_priority)
        self._copy: _Copy | None = None

    @property
    def incoming(self) -> Path:
        """Where the next copy is to be put, for `adopt`."""
        return self._base.with_name(f"{self._base.name}.next")

    @property
    def time(self) -> int | None:
        """The time of the copy that is served, in microseconds since the epoch, or None if there is none yet."""
        return None if self._copy is None else self._copy.time

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._lock.acquire)
            kept = await asyncio.to_thread(self._sort_out)
            if kept is not None:
                self._copy = _Copy(kept, metrics=self._metrics)
        except BaseException as exc:
            self._lock.release()
            if isinstance(exc, (OSError, apsw.Error)):
                raise StartupRefused(f"no copies can be kept beside {self._base} ({exc}); is it writable?") from exc
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            await copy.close()
        await asyncio.to_thread(self._thread.shutdown)
        self._lock.release()

    async def adopt(self, *, time: int) -> None:
        """Serves the file at `incoming` from now on. Operations that run finish on the copy before, which then goes.

        `time` is that of its state. Raises ReplicaFailed, and StartupRefused if a newer server wrote it; then the copy
        before stays.
        """
        # Each has a name of its own: SQLite opens a file by its name whenever a reader first needs it.
        name = f"{self._base.name}-{max(time, (self.time or 0) + 1)}"
        path, stopped = self._base.with_name(name), threading.Event()
        loop = asyncio.get_running_loop()
        preparing = loop.run_in_executor(self._thread, _prepare, self.incoming, path, stopped)
        try:
            await asyncio.shield(preparing)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait({preparing})
            raise
        before, self._copy = self._copy, _Copy(path, metrics=self._metrics)
        if before is not None:
            await before.close()
            await asyncio.to_thread(before.path.unlink)

    def _sort_out(self) -> Path | None:
        """Deletes what was left, and returns the newest copy, or None."""
        copies, left = [], []
        for path in self._base.parent.glob(f"{self._base.name}[-.]*"):
            if path.name.removeprefix(f"{self._base.name}-").isdigit():
                copies.append(path)
            elif path.name.startswith(self.incoming.name):
                left.append(path)
        copies.sort(key=_time_of)
        for path in left + copies[:-1]:
            path.unlink()
        return copies[-1] if copies else None

    async def read(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        copy = self._served()
        if is_point_read(operation):
            return drive(operation(SqliteTransaction(copy.point_reader, scope), *args, **kwargs))
        return await copy.readers.read(
            lambda connection: operation(SqliteTransaction(connection, scope), *args, **kwargs),
            vault_id=scope.vault_id,
            search=is_search_read(operation),
        )

    async def read_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._served().readers.read(
            lambda connection: operation(SqliteSystemTransaction(connection, scope), *args, **kwargs),
            vault_id=scope.vault_id,
            search=False,
        )

    async def write(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._refuse()

    async def write_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self._refuse()

    async def copy(self, path: Path, /, *, progress: Progress) -> None:
        self._refuse()

    def listen(self, listener: Listener, /) -> None:
        """Calls nobody: what a newer copy brings is found by looking."""

    def _refuse(self) -> NoReturn:
        raise ReadOnly(primary=self._primary)

    def _served(self) -> "_Copy":
        if self._copy is None:
            raise StoreNotReady(retry_delay=1.0)
        return self._copy

    async def failing(self) -> str | None:
        try:
            self._served().point_reader.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except Exception:
            logger.exception("the copy of the primary's database cannot be read")
            return "store"
        return None

    async def checks(self) -> Mapping[str, bool]:
        return {"store": self._copy is not None and await self.failing() is None}

    def require_space(self) -> None:
        """Never raises: nothing is stored."""

    def fits(self, directory: Path, size: int, /) -> bool:
        """Returns that none fits: nothing is stored."""
        return False

    def locked_by(self) -> str | None:
        return None

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def maintain(self) -> bool:
        return False

    async def check(self) -> bool:
        return False

    @property
    def checked(self) -> StoreCheck:
        """Without faults: a copy that had any would not be served."""
        return StoreCheck(self.time)

    def inspect(self, path: Path, /, *, stopped: threading.Event) -> Inspection:
        return inspect(path, stopped=stopped)

    async def versions(self) -> tuple[str, int]:
        return apsw.sqlite_lib_version(), migrations.load("sqlite")[-1][0]

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        return {
            "metamorph_database_bytes": ("Size of the database", lambda: self._served().path.stat().st_size),
            "metamorph_read_queue_operations": (
                "Reads that wait, besides those by primary key, which do not",
                lambda: 0 if self._copy is None else self._copy.readers.waiting,
            ),
        }

    @property
    def collectors(self) -> Iterable[Collector]:
        return self._metrics.collectors


class _Copy:
    """A file that nobody writes, and those who read it."""

    def __init__(self, path: Path, *, metrics: StoreMetrics) -> None:
        self.path = path
        self.time = _time_of(path)
        self._connections: list[apsw.Connection] = []
        self.point_reader = self._connect()
        self.readers = Readers(connect=self._connect, gate=Gate(), metrics=metrics)

    async def close(self) -> None:
        """Finishes the operations that run or wait, then closes the file."""
        await self.readers.close()
        for connection in self._connections:
            connection.close()

    def _connect(self) -> apsw.Connection:
        # Immutable: without locks, and without a log or any other file beside it.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"{self.path.as_uri()}?immutable=1", flags=flags)
        self._connections.append(connection)
        for pragma in ("query_only = ON", "cache_size = -8000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection


def _time_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _prepare(restored: Path, path: Path, stopped: threading.Event) -> None:
    """Checks a restored file, brings it to this server's schema, and gives it its name. Blocks.

    Raises ReplicaFailed, and StartupRefused if a newer server wrote it.
    """
    try:
        inspection = inspect(restored, stopped=stopped)
        if inspection.faults:
            raise ReplicaFailed(f"the replica is damaged: {'; '.join(inspection.faults)}")
        connection = apsw.Connection(str(restored), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            migrate(connection, restored)
            # Without a log, so that it is complete by itself.
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            connection.close()
        restored.rename(path)
        sync_directory(path.parent)
    except (apsw.Error, OSError) as exc:
        raise ReplicaFailed(f"the replica cannot be copied ({exc})") from exc
