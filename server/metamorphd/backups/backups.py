"""Backups of the running server: made, verified, kept for some days, one piece of work at a time."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

from metamorphd.backups.directory import DAY, Directory, latest_state, name_at, time_of
from metamorphd.backups.verification import differences, digest
from metamorphd.clock import Clock
from metamorphd.deletion import delete
from metamorphd.errors import BackupBusy, BackupNotFound, DomainError, ServerDraining, StartupRefused
from metamorphd.models.backup import Backup, BackupState, Manifest
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import ChangeVerb
from metamorphd.models.operation import OperationKind
from metamorphd.operations import Operations, Running
from metamorphd.priority import lower_priority
from metamorphd.store.database import Database

if TYPE_CHECKING:
    # A server without copies does not need its libraries.
    from metamorphd.backups.copies import Copies

T = TypeVar("T")

HOUR = 3600 * 1_000_000
# After the start, when a server has other things to do, and after a failure.
FIRST_SECONDS = 300.0
RETRY_SECONDS = 900.0
LOOK_SECONDS = 30.0
CHUNK_BYTES = 2**20
# Of the work: what copying, reading and inspecting are of it, about.
COPIED, READ = 0.6, 0.2

logger = structlog.get_logger(__name__)


class Backups:
    """Makes a backup every `interval_hours`, 0 for never, and verifies the newest one a day after it was verified.

    Those older than `retention_days` are deleted, but never the newest good one of a database. `record` records
    what is done to one unasked. `stamp` returns a time stamp over the digest of its logs' heads, or nothing. `copies`
    keeps copies of them off the machine.
    """

    def __init__(
        self,
        *,
        database: Database,
        operations: Operations,
        clock: Clock,
        path: Path,
        interval_hours: float,
        retention_days: float,
        server_version: str,
        record: Callable[[str, ChangeVerb], Awaitable[None]],
        stamp: Callable[[bytes], Awaitable[str]],
        copies: "Copies | None" = None,
    ) -> None:
        self._database = database
        self._operations = operations
        self._clock = clock
        self._directory = Directory(path)
        self._interval = int(interval_hours * HOUR)
        self._retention_days = retention_days
        self._server_version = server_version
        self._record = record
        self._stamp = stamp
        self._copies = copies
        self._stopped = threading.Event()
        # Verifying reads all of a backup, and others go first: it takes minutes, and a list must not wait for it.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="backup", initializer=lower_priority)
        self._listing = ThreadPoolExecutor(1, thread_name_prefix="backup-files")
        self._tasks: set[asyncio.Task[None]] = set()
        self._current: Backup | None = None
        # Of the work that goes on: set to end it.
        self._ended = threading.Event()
        self._running: Running | None = None
        self._failed: Backup | None = None
        self._newest: Manifest | None = None
        self._damaged = False

    async def __aenter__(self) -> Self:
        try:
            leftovers = await self._run(self._directory.prepare)
        except OSError as exc:
            raise StartupRefused(
                f"BACKUP_DIR {self._directory.path} cannot be used ({exc.strerror}); set it to another directory"
            ) from exc
        if leftovers:
            logger.warning("incomplete backups were deleted", names=leftovers)
        await self._find_newest()
        if self._copies is not None:
            await self._copies.__aenter__()
        self._begun = self._clock.now()
        self._due = self._begun + int(FIRST_SECONDS * 1e6)
        self._spawn(self._schedule())
        return self

    def stop(self) -> None:
        """Ends the work that goes on, and begins no other. Leaving waits for its end, a few seconds at most.

        May be called more than once.
        """
        # A second cancellation would end the wait for the first.
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._ended.set()
        for task in self._tasks:
            task.cancel()
        if self._copies is not None:
            self._copies.stop()

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._copies is not None:
            await self._copies.__aexit__()
        for thread in (self._reading, self._listing):
            await asyncio.to_thread(thread.shutdown)

    async def create_backup(self, scope: Scope) -> Backup:
        """Begins a backup, and returns it as it is now. Raises BackupBusy, and ServerDraining once it was stopped."""
        self._refuse_busy()
        name, taken = "", {backup.name for backup in await self.list_backups()}
        self._refuse_busy()
        now = self._clock.now()
        while not name or name in taken:
            name = name_at(now)
            now += 1_000_000
        return await self._begin(Backup(name, BackupState.CREATING, 0, 0.0), self._create, scope)

    async def verify_backup(self, name: str, scope: Scope) -> Backup:
        """Begins to verify a backup, and returns it as it is now.

        Raises BackupNotFound, BackupBusy, and ServerDraining once it was stopped.
        """
        backup = await self._run(partial(self._directory.get_backup, name))
        self._refuse_busy()
        return await self._begin(replace(backup, state=BackupState.VERIFYING, progress=0.0), self._verify, scope)

    async def list_backups(self) -> list[Backup]:
        """Returns the backups, newest first, with the one that is being created or has failed since the last one."""
        backups = [self._with_copy(backup) for backup in await self._run(self._directory.list_backups)]
        first = self._current or self._failed
        return backups if first is None else [first, *(backup for backup in backups if backup.name != first.name)]

    async def get_backup(self, name: str) -> Backup:
        """Returns a backup. Raises BackupNotFound."""
        for backup in (self._current, self._failed):
            if backup is not None and backup.name == name:
                return backup
        return self._with_copy(await self._run(partial(self._directory.get_backup, name)))

    async def delete_backup(self, name: str) -> None:
        """Deletes a backup. Raises BackupNotFound, and BackupBusy while work on it goes on."""
        if self._current is not None and self._current.name == name:
            self._refuse_busy()
        await self._run(partial(self._directory.delete_backup, name))
        await self._find_newest()

    async def prune_backups(self, *, validate_only: bool = False) -> list[str]:
        """Deletes the backups that are too old, but for one that is being verified, and returns their names.

        With `validate_only`, nothing is deleted. Newest first.
        """
        names = await self._run(
            partial(self._directory.expired_backups, now=self._clock.now(), days=self._retention_days)
        )
        names = [name for name in names if self._current is None or name != self._current.name]
        if validate_only or not names:
            return names
        for name in names:
            with contextlib.suppress(BackupNotFound):
                await self._run(partial(self._directory.delete_backup, name))
        logger.info("old backups were deleted", names=names)
        await self._find_newest()
        return names

    async def last_expiry(self, *, since: int) -> tuple[int, int | None]:
        """Returns how many backups and copies can have what was first stored at `since`, and when the last is deleted.

        None if there is none, or if the newest is kept until an operator makes another one.
        """
        backups = await self.list_backups()
        made = [(backup.name, backup.manifest) for backup in backups if backup.state is not BackupState.FAILED]
        if self._copies is not None:
            made += [(manifest.name, manifest) for manifest in self._copies.manifests]
        having = [time_of(name) for name, manifest in made if latest_state(name, manifest) >= since]
        if not having:
            return 0, None
        newest, kept = max(having), int(self._retention_days * DAY)
        # The newest is kept until another one is made, and those that are too old are looked for every hour.
        expire_time = max(newest + kept, newest + self._interval) + HOUR if self._interval else None
        return len(having), expire_time

    def copy_ledger(self) -> None:
        """Has the erasure ledger sent to where copies are kept, soon."""
        if self._copies is not None:
            self._copies.wake()

    async def read_backup(self, name: str, *, offset: int) -> AsyncGenerator[bytes]:
        """Yields the bytes of a backup from an offset on. Raises BackupNotFound.

        One that is deleted meanwhile is read to its end.
        """
        await self._run(partial(self._directory.get_backup, name))
        try:
            file = await asyncio.to_thread(open, self._directory.path / name, "rb", buffering=0)
        except FileNotFoundError:
            raise BackupNotFound(name=name) from None
        with file:
            while chunk := await asyncio.to_thread(os.pread, file.fileno(), CHUNK_BYTES, offset):
                yield chunk
                offset += len(chunk)

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read."""
        return {
            "metamorph_backup_timestamp_seconds": (
                "When the newest good backup was made, 0 if there is none",
                lambda: 0.0 if self._newest is None else self._newest.create_time / 1e6,
            ),
            "metamorph_backup_verified_timestamp_seconds": (
                "When the newest good backup was verified, 0 if there is none",
                lambda: 0.0 if self._newest is None else self._newest.verify_time / 1e6,
            ),
            "metamorph_backup_failed": ("1 if the last backup failed", lambda: float(self._failed is not None)),
            **({} if self._copies is None else self._copies.gauges),
        }

    def degraded(self) -> str | None:
        """Returns `backup` if the newest backup, or its copy, is damaged or older than two intervals, or None."""
        times = [self._begun if self._newest is None else self._newest.create_time]
        if self._copies is not None:
            times.append(self._copies.newest_time)
        late = bool(self._interval) and min(times) < self._clock.now() - 2 * self._interval
        damaged = self._damaged or (self._copies is not None and self._copies.damaged)
        return "backup" if late or damaged else None

    def _with_copy(self, backup: Backup) -> Backup:
        if self._copies is None:
            return backup
        copy, fault = self._copies.copy_of(backup.name)
        return replace(backup, copy=copy, copy_url="" if copy is None else self._copies.url(copy), copy_fault=fault)

    def _refuse_busy(self) -> None:
        if self._current is not None:
            raise BackupBusy(name=self._current.name)

    async def _begin(self, backup: Backup, work: Callable[[str], Awaitable[None]], scope: Scope) -> Backup:
        if self._stopped.is_set():
            raise ServerDraining
        self._current, self._ended = backup, threading.Event()
        begun: asyncio.Future[Backup] = asyncio.get_running_loop().create_future()
        self._spawn(self._do(backup, work, scope, begun))
        # The work goes on without whoever asked for it, from here on.
        return await asyncio.shield(begun)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(
        self, backup: Backup, work: Callable[[str], Awaitable[None]], scope: Scope, begun: "asyncio.Future[Backup]"
    ) -> None:
        try:
            self._running = await self._begin_operation(backup, scope)
            if self._running is not None:
                self._current = replace(backup, operation_id=self._running.operation.operation_id)
            begun.set_result(self._current or backup)
            async with self._running or contextlib.nullcontext():
                await work(backup.name)
        except asyncio.CancelledError:
            # Not again at once.
            self._due = self._clock.now() + int(RETRY_SECONDS * 1e6)
            raise
        except Exception as exc:
            # Ours say what happened. Others may have a path or SQL in them, which is for the log.
            fault = str(exc) if isinstance(exc, DomainError) else "it failed; the log says why"
            logger.exception("a backup failed", name=backup.name, state=backup.state)
            self._due = self._clock.now() + int(RETRY_SECONDS * 1e6)
            if backup.state is BackupState.CREATING:
                self._failed = replace(backup, state=BackupState.FAILED, progress=1.0, fault=fault)
        finally:
            self._current = self._running = None
            if not begun.done():
                begun.set_exception(ServerDraining())
            await self._find_newest()

    async def _begin_operation(self, backup: Backup, scope: Scope) -> Running | None:
        """Returns the operation of work that begins. None if it cannot be stored: the work is done all the same."""
        kind = OperationKind.CREATE_BACKUP if backup.state is BackupState.CREATING else OperationKind.VERIFY_BACKUP
        task, ended = asyncio.current_task(), self._ended

        def cancel() -> None:
            ended.set()
            if task is not None:
                task.cancel()

        server = scope.of_vault("")
        try:
            return await self._operations.begin(
                server, self._operations.new(server, kind, target=backup.name), cancel=cancel
            )
        except DomainError as exc:
            logger.warning("a backup is not listed among operations", name=backup.name, error=str(exc))
            return None

    async def _create(self, name: str) -> None:
        partial_file, begin_time = self._directory.partial(name), self._clock.now()
        try:
            await self._database.copy(partial_file, progress=self._progress(0.0, COPIED))
            create_time = self._clock.now()
            manifest = await self._read(partial(self._inspected, name, partial_file, begin_time, create_time))
            if manifest.log_heads:
                token = await self._stamp(bytes.fromhex(manifest.log_heads))
                manifest = replace(manifest, log_heads_timestamp=token)
            await self._run(partial(self._directory.complete_backup, manifest))
        except BaseException:
            delete(partial_file)
            raise
        self._failed = None
        logger.info("a backup was made", name=name, size=manifest.size, duration=(self._clock.now() - begin_time) / 1e6)
        if manifest.faults:
            logger.critical("a backup is damaged, and so may be the database", name=name, faults=manifest.faults)
        if self._copies is not None:
            self._copies.wake()
        try:
            await self._prune()
        except OSError:
            # The backup is there all the same.
            logger.exception("old backups could not be deleted")

    def _inspected(self, name: str, file: Path, begin_time: int, create_time: int) -> Manifest:
        sha256 = digest(file, stopped=self._ended, progress=self._progress(COPIED, READ))
        inspection = self._database.inspect(file, stopped=self._ended)
        return Manifest(
            name=name,
            begin_time=begin_time,
            create_time=create_time,
            server_version=self._server_version,
            size=file.stat().st_size,
            sha256=sha256,
            schema_version=inspection.schema_version,
            row_counts=inspection.row_counts,
            verify_time=self._clock.now(),
            faults=inspection.faults,
            database_id=inspection.database_id,
            log_count=inspection.log_count,
            log_heads=inspection.log_heads,
        )

    async def _verify(self, name: str) -> None:
        manifest = await self._read(partial(self._verified, name))
        await self._run(partial(self._directory.write_manifest, manifest))
        if manifest.faults:
            logger.critical("a backup is damaged", name=name, faults=manifest.faults)
        else:
            logger.info("a backup was verified", name=name)

    def _verified(self, name: str) -> Manifest:
        file, known = self._directory.path / name, self._directory.get_backup(name).manifest
        if known is None:
            made = time_of(name)
            return self._inspected(name, file, made, made)
        sha256 = digest(file, stopped=self._ended, progress=self._progress(0.0, 1 - READ))
        inspection = self._database.inspect(file, stopped=self._ended)
        faults = differences(known, sha256=sha256, inspection=inspection)
        return replace(known, verify_time=self._clock.now(), faults=faults)

    async def _schedule(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._clock.now()
            if self._current is not None or now < self._due:
                continue
            try:
                await self._next(now)
            except Exception:
                logger.exception("the schedule of backups failed; retrying")
                self._due = now + int(RETRY_SECONDS * 1e6)

    async def _next(self, now: int) -> None:
        """Begins what is due: a backup, or else the verification of the newest good one."""
        backups = [backup for backup in await self._run(self._directory.list_backups) if backup.manifest is not None]
        # Of a damaged database each is damaged: more of them would fill the volume.
        made = time_of(backups[0].name) if backups else 0
        good = next((backup.manifest for backup in backups if backup.state is BackupState.READY), None)
        # A clock that was set back counts as well.
        if self._interval and not 0 <= now - made < self._interval:
            # Its name is not known yet.
            await self._recorded("", ChangeVerb.CREATED)
            await self.create_backup(server_scope())
        elif good is not None and now - good.verify_time >= DAY:
            await self.verify_backup(good.name, server_scope())
        else:
            await self._prune()

    async def _prune(self) -> None:
        for name in await self.prune_backups(validate_only=True):
            await self._recorded(name, ChangeVerb.DELETED)
        await self.prune_backups()

    async def _recorded(self, name: str, verb: ChangeVerb) -> None:
        """Records what is done next. It is done all the same if it cannot be: a backup may be what is needed then."""
        try:
            await self._record(name, verb)
        except DomainError as exc:
            logger.warning("what is done to a backup is not recorded", name=name, verb=verb, error=str(exc))

    async def _find_newest(self) -> None:
        backups = await self._run(self._directory.list_backups)
        self._newest = next((backup.manifest for backup in backups if backup.state is BackupState.READY), None)
        self._damaged = bool(backups) and backups[0].state is BackupState.DAMAGED

    def _progress(self, begin: float, share: float) -> Callable[[float], None]:
        def report(done: float) -> None:
            current = self._current
            if current is not None:
                self._current = replace(current, progress=begin + share * min(done, 1.0))
                if self._running is not None:
                    self._running.advance(int(100 * self._current.progress))

        return report

    async def _run(self, work: Callable[[], T]) -> T:
        """Returns the result of work on the directory, one at a time, none of which reads a backup."""
        return await asyncio.get_running_loop().run_in_executor(self._listing, work)

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)
