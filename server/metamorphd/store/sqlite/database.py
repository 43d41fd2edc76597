"""A SQLite database: where operations run, and how it is."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import apsw
import structlog
from prometheus_client.registry import Collector

from metamorphd.chain import Chain
from metamorphd.errors import StartupRefused, StorageFull, StoreNotReady
from metamorphd.models.backup import Inspection
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.store_check import StoreCheck
from metamorphd.store import migrations
from metamorphd.store.database import (
    Listener,
    Operation,
    P,
    Progress,
    SystemOperation,
    is_concluding,
    is_growing,
    is_point_read,
    is_search_read,
    span_of,
)
from metamorphd.store.sqlite.check import Check
from metamorphd.store.sqlite.copying import Copying
from metamorphd.store.sqlite.file import DatabaseFile
from metamorphd.store.sqlite.gate import Gate
from metamorphd.store.sqlite.holder import holder_of
from metamorphd.store.sqlite.inspection import inspect
from metamorphd.store.sqlite.log import Log
from metamorphd.store.sqlite.measures import StoreMetrics
from metamorphd.store.sqlite.old_index import remove_old_index
from metamorphd.store.sqlite.readers import Readers
from metamorphd.store.sqlite.space import Space
from metamorphd.store.sqlite.transaction import (
    UNCHAINED,
    Bound,
    SqliteSystemTransaction,
    SqliteTransaction,
    drive,
)
from metamorphd.store.sqlite.writer import Writer
from metamorphd.store.vault_states import require_active

T = TypeVar("T")

PAGES = """
SELECT freelist_count * page_size, page_count * page_size
FROM pragma_freelist_count, pragma_page_count, pragma_page_size
"""
RESERVE_SECONDS = 1.0

logger = structlog.get_logger(__name__)


class SqliteDatabase:
    """A database file and those that work on it. See `Database` for what the methods promise.

    `synchronous` is FULL or NORMAL; `vfs` names a registered SQLite VFS, None is the default one. `floor_bytes` is as
    for `Space`. `chain` authenticates the logs of vaults.
    """

    engine = "sqlite"
    # By the lock on the file.
    exclusive = True
    writer_class: ClassVar[type[Writer]] = Writer

    def __init__(
        self,
        *,
        path: Path,
        synchronous: str,
        vfs: str | None = None,
        floor_bytes: int | None = 0,
        chain: Chain = UNCHAINED,
    ) -> None:
        self._file = DatabaseFile(path, synchronous=synchronous, vfs=vfs)
        self._space = Space(self._file.path, floor_bytes=floor_bytes)
        self._copyings: dict[Copying, asyncio.Future[None]] = {}
        self._metrics = StoreMetrics()
        self._open = False
        self._listener: Listener = _nobody
        self._chain = chain

    async def __aenter__(self) -> Self:
        opening = asyncio.ensure_future(asyncio.to_thread(self._file.open, self._space.prepare))
        try:
            await asyncio.shield(opening)
        except BaseException as exc:
            # The thread goes on when its caller is cancelled; only then are its files all there to be closed.
            await asyncio.wait({opening})
            self._file.close()
            if isinstance(exc, (apsw.Error, OSError)):
                path = self._file.path
                if isinstance(exc, apsw.BusyError):
                    raise StartupRefused(
                        f"{path} is locked by {holder_of(path) or 'another program'}; end that program"
                    ) from exc
                raise StartupRefused(
                    f"{path} cannot be opened as a SQLite database ({exc}); is its directory writable for this user?"
                ) from exc
            raise
        gate = Gate()
        connect = partial(self._file.connect, readonly=True)
        self._log = Log(
            connection=self._file.writing,
            connect=partial(self._file.connect, readonly=False),
            gate=gate,
            gaps=self._file.gaps,
        )
        self._writer = self.writer_class(self._file.writing, log=self._log, metrics=self._metrics)
        self._log.start(self._writer.between_writes)
        self._readers = Readers(connect=connect, gate=gate, metrics=self._metrics)
        self._check = Check(self._file.path, connect=connect, gate=gate, clean=self._file.clean)
        self._open = True
        self._reserving = asyncio.create_task(self._reserve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reserving.cancel()
        await asyncio.wait({self._reserving})
        self._open = False
        for copying in self._copyings:
            copying.stop()
        if self._copyings:
            await asyncio.wait(self._copyings.values())
        # First, because it gives the writer work.
        await asyncio.to_thread(self._log.stop)
        await self._writer.close()
        await self._readers.close()
        await asyncio.to_thread(self._log.cut)
        await asyncio.to_thread(self._check.close)
        self._file.close()
        self._file.note_end()

    async def read(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with span_of(self.engine, operation, scope):
            if is_point_read(operation):
                return drive(operation(SqliteTransaction(self._inline(), scope), *args, **kwargs))
            return await self._read(
                lambda connection: operation(SqliteTransaction(connection, scope), *args, **kwargs),
                scope,
                search=is_search_read(operation),
            )

    async def write(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        growing, concluding = is_growing(operation), is_concluding(operation)
        tx: SqliteTransaction | None = None

        def bound(connection: apsw.Connection) -> Coroutine[Any, Any, T]:
            nonlocal tx
            if growing:
                # Only now: what waited before it has grown.
                self._space.require(partial(self._room, connection))
            tx = SqliteTransaction(connection, scope, self._chain)
            return operation(tx, *args, **kwargs) if concluding else admitted(tx)

        async def admitted(tx: SqliteTransaction) -> T:
            await require_active(tx)
            return await operation(tx, *args, **kwargs)

        def committed() -> None:
            # The transaction of the last attempt, which is the one that was committed.
            if tx is not None and tx.head is not None:
                self._listener(scope.vault_id, tx.head.revision)

        with span_of(self.engine, operation, scope):
            return await self._write(bound, scope, growing=growing, committed=committed)

    def listen(self, listener: Listener, /) -> None:
        self._listener = listener

    def require_space(self) -> None:
        self._space.require(self._room)

    def fits(self, directory: Path, size: int, /) -> bool:
        return self._space.fits(directory, size)

    async def read_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with span_of(self.engine, operation, scope):
            return await self._read(
                lambda connection: operation(SqliteSystemTransaction(connection, scope), *args, **kwargs),
                scope,
                search=False,
            )

    async def write_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with span_of(self.engine, operation, scope):
            return await self._write(
                lambda connection: operation(SqliteSystemTransaction(connection, scope), *args, **kwargs),
                scope,
                growing=False,
            )

    async def failing(self) -> str | None:
        if not self._readable():
            return "store"
        if self._check.found.faults:
            return "damaged"
        return None if await self._writable() else "write"

    async def checks(self) -> Mapping[str, bool]:
        if not self._open:
            return dict.fromkeys(("store", "damaged", "write", "disk"), False)
        return {
            "store": self._readable(),
            "damaged": not self._check.found.faults,
            "write": await self._writable(),
            "disk": not self._space.low(self._room),
        }

    def _readable(self) -> bool:
        try:
            self._inline().execute("SELECT 1 FROM sqlite_schema").fetchall()
        except Exception:
            logger.exception("the database cannot be read")
            return False
        return True

    async def _writable(self) -> bool:
        try:
            await self._writer.probe()
        except StorageFull:
            # With the ballast, all but growth still works.
            return self._space.low(self._room) and self._space.reserved
        except Exception:
            if (holder := await asyncio.to_thread(self.locked_by)) is None:
                logger.exception("the database cannot be written")
            else:
                logger.exception(
                    "the database cannot be written, because another program has locked it",
                    locked_by=holder,
                    remedy="end that program; none but the server may open the file for writing while it runs",
                )
            return False
        return True

    def locked_by(self) -> str | None:
        return holder_of(self._file.path)

    @property
    def clean(self) -> bool:
        return self._file.clean

    async def failed(self) -> None:
        await self._writer.failed.wait()

    async def maintain(self) -> bool:
        sweeping = await asyncio.to_thread(self._log.sweep)
        return await self._write(remove_old_index, server_scope(), growing=False) or sweeping

    async def check(self) -> bool:
        return await asyncio.to_thread(self._check.step)

    @property
    def checked(self) -> StoreCheck:
        return self._check.found if self._open else StoreCheck()

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        return {
            "metamorph_wal_bytes": ("Size of the write-ahead log", self._file.log_bytes),
            "metamorph_database_bytes": ("Size of the database", lambda: self._file.path.stat().st_size),
            "metamorph_volume_bytes": ("Size of the volume", lambda: self._space.total_bytes),
            "metamorph_disk_free_bytes": ("Free space on the volume", lambda: self._space.free_bytes),
            "metamorph_write_queue_operations": (
                "Writes that wait or run",
                lambda: self._writer.waiting if self._open else 0,
            ),
            "metamorph_read_queue_operations": (
                "Reads that wait, besides those by primary key, which do not",
                lambda: self._readers.waiting if self._open else 0,
            ),
            "metamorph_check_faults": ("Kinds of damage found in the database", lambda: len(self.checked.faults)),
            "metamorph_check_progress_ratio": (
                "Share of tables and indexes that the check in progress has done, 1 if there is none",
                lambda: self.checked.progress,
            ),
            "metamorph_check_complete_timestamp_seconds": (
                "When all of the database was last checked for damage, 0 if it never was",
                lambda: (self.checked.complete_time or 0) / 1e6,
            ),
        }

    @property
    def collectors(self) -> Iterable[Collector]:
        return self._metrics.collectors

    async def copy(self, path: Path, /, *, progress: Progress) -> None:
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        fits = partial(self._space.fits, path.parent)
        copying = Copying(path, writer=self._writer, gaps=self._file.gaps, fits=fits)
        running = asyncio.ensure_future(asyncio.to_thread(copying.run, progress))
        self._copyings[copying] = running
        running.add_done_callback(lambda _: self._copyings.pop(copying))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            copying.stop()
            await asyncio.wait({running})
            raise

    def inspect(self, path: Path, /, *, stopped: threading.Event) -> Inspection:
        return inspect(path, stopped=stopped)

    async def versions(self) -> tuple[str, int]:
        return apsw.sqlite_lib_version(), migrations.load("sqlite")[-1][0]

    def _inline(self) -> apsw.Connection:
        """Returns the connection of point reads, on the event loop's thread."""
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        return self._file.point_reader

    async def _read(self, bound: Bound[T], scope: Scope, *, search: bool) -> T:
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        return await self._readers.read(bound, vault_id=scope.vault_id, search=search)

    async def _write(
        self, bound: Bound[T], scope: Scope, *, growing: bool, committed: Callable[[], None] | None = None
    ) -> T:
        if not self._open:
            raise StoreNotReady(retry_delay=1.0)
        try:
            return await self._writer.write(bound, vault_id=scope.vault_id, committed=committed)
        except StorageFull:
            if growing or not await asyncio.to_thread(self._space.release):
                raise
        return await self._writer.write(bound, vault_id=scope.vault_id, committed=committed)

    async def _reserve(self) -> None:
        while True:
            await asyncio.to_thread(self._space.reserve, room=self._room())
            await asyncio.sleep(RESERVE_SECONDS)
            if self._space.tight:
                # Sooner than otherwise, since the log itself may take up what is missing.
                self._writer.between_writes(self._log.cut)
                await asyncio.sleep(RESERVE_SECONDS)

    def _room(self, connection: apsw.Connection | None = None) -> int:
        """Returns the bytes that are free in the database, less those by which its file will grow.

        `connection` is the writer's on its thread, and on the event loop's thread None.
        """
        try:
            rows: Any = (connection or self._inline()).execute(PAGES).fetchall()
            ((free, whole),) = rows
            return int(free - max(0, whole - self._file.path.stat().st_size))
        except (apsw.Error, OSError, StoreNotReady):
            # `failing` reports it.
            return 0


def _nobody(_vault_id: str, _revision: int) -> None:
    """Listens if nobody else does."""
