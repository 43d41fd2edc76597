"""Imports: a file that arrives is verified, staged hidden in the vault, and revealed once everything is there.

Until the commit that decides it, an import has stored nothing that anybody sees, and what it has staged is erased, also
after a crash. From then on it is complete, and what is left to be revealed is revealed by the next start.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.deletion import delete
from metamorphd.durable import Appending
from metamorphd.errors import ImportInvalid, ImportRunning, OperationCancelled, OperationInterrupted, StorageFull
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.imports import Imported, ImportState, Refused
from metamorphd.models.operation import Operation, OperationKind
from metamorphd.models.span import NOT_RECORDED
from metamorphd.operations import Operations
from metamorphd.store.database import Database
from metamorphd.store.imports import begin_import, complete_import, discard_import, end_import_step, list_imports
from metamorphd.store.storage import require_storage
from metamorphd.transfers.patience import Patient, patiently
from metamorphd.transfers.reading import verify
from metamorphd.transfers.staging import Staging
from metamorphd.transfers.threads import Threads
from metamorphd.transfers.verification import Arriving

AHEAD_BYTES = 16 * 2**20
DRAINED_BYTES, DRAIN_SECONDS = 32 * 2**20, 5.0
VISITED_VAULTS = 100
RETRY_SECONDS = 30.0
THREADS = 2

logger = structlog.get_logger(__name__)


class Imports:
    """The imports into vaults, while it is entered. Files are in `directory` until they are staged."""

    def __init__(
        self, *, database: Database, operations: Operations, clock: Clock, directory: Path, storage_limit: int
    ) -> None:
        self._database = database
        self._patient = Patient(database)
        self._operations = operations
        self._clock = clock
        self._directory = directory
        self._storage_limit = storage_limit
        self._threads = Threads("import", count=THREADS)
        # By vault. Verifying takes a processor, and the memory of a line.
        self._running: set[str] = set()
        self._tasks: dict[asyncio.Task[tuple[Imported, int]], str] = {}
        self._verifying = asyncio.Semaphore(1)

    async def __aenter__(self) -> Self:
        await self._threads.run(self._prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops what is being imported. The next start completes or discards it."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self._threads.close()

    async def receive(self, scope: Scope, chunks: AsyncIterator[bytes]) -> tuple[Imported, int, str]:
        """Imports a file, and returns what was imported, the vault's revision then, and the ID of the operation.

        Once all has arrived, the server goes on when the caller is gone. Raises ImportRunning, ImportInvalid,
        StorageFull, StorageQuotaExceeded, TooManyOperations, OperationCancelled, OperationInterrupted.
        """
        if scope.vault_id in self._running:
            raise ImportRunning
        self._running.add(scope.vault_id)
        try:
            await self._database.read(require_storage, scope, added_bytes=1, default_limit=self._storage_limit)
            path = self._directory / self._clock.new_id("imp")
            size = await self._received(path, chunks)
        except BaseException:
            self._running.discard(scope.vault_id)
            raise
        operation = self._operations.new(scope, OperationKind.IMPORT_VAULT, unit="bytes", total=size)
        task = asyncio.create_task(self._import(scope, path, operation))
        self._tasks[task] = scope.vault_id
        task.add_done_callback(self._tasks.pop)
        task.add_done_callback(lambda _: self._running.discard(scope.vault_id))
        # Also if the caller is gone. The operation has the failure.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        imported, revision = await asyncio.shield(task)
        return imported, revision, operation.operation_id

    def forget(self, vault_id: str) -> None:
        """Stops what is being imported into a vault that is deleted. What it has staged is erased with the vault."""
        for task, vault in self._tasks.items():
            if vault == vault_id:
                task.cancel()

    async def work(self) -> None:
        """Completes or discards imports that a server before this one has left, or that have failed here."""
        after = ""
        while found := await self._database.read_system(
            list_imports, server_scope(), after=after, limit=VISITED_VAULTS
        ):
            for vault_id, import_id, state in found:
                if vault_id not in self._running:
                    await self._end_left(vault_id, import_id, state)
            after = found[-1][0]

    async def _end_left(self, vault_id: str, import_id: str, state: ImportState) -> None:
        try:
            await self._end(server_scope(vault_id), import_id, state)
        except Exception:
            # Those of other vaults do not wait for it.
            logger.exception("an import was not ended; trying again later", vaultId=vault_id, import_id=import_id)

    async def _end(self, scope: Scope, import_id: str, state: ImportState) -> Imported:
        """Reveals what was staged, and returns what that has stored; discards it if it was not complete."""
        if state is ImportState.STAGING:
            await self._patient.write(discard_import, scope, import_id=import_id)
        imported = Imported()
        while (step := await self._patient.write(end_import_step, scope, now=self._clock.now())) is not None:
            imported.add(step)
        return imported

    def _prepare(self) -> None:
        for left in self._directory.glob("*"):
            delete(left)

    async def _received(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        """Writes what arrives to a file, and returns its size. Removes the file if something goes wrong."""
        arriving, size, ahead = Arriving(), 0, 0
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                appending = Appending(file)
                async for chunk in chunks:
                    arriving.add(chunk)
                    ahead -= len(chunk)
                    if ahead < 0:
                        ahead = AHEAD_BYTES
                        # As much again as is there, as at the end: a file that never ends leaves others half.
                        await self._require_space(AHEAD_BYTES + size)
                    await self._threads.run(appending.append, chunk)
                    size += len(chunk)
            # What it stores takes about as much again.
            await self._require_space(size)
        except BaseException as exc:
            delete(path)
            if isinstance(exc, Refused):
                await _drained(chunks)
                raise _invalid(exc) from None
            if isinstance(exc, OSError):
                raise StorageFull(retry_delay=RETRY_SECONDS) from exc
            raise
        return size

    async def _require_space(self, size: int) -> None:
        if not await self._threads.run(self._database.fits, self._directory.parent, size):
            raise StorageFull(retry_delay=RETRY_SECONDS)

    async def _import(self, scope: Scope, path: Path, operation: Operation) -> tuple[Imported, int]:
        # An import has the ID of its operation, which ends with it.
        scope, import_id = scope.within(NOT_RECORDED), operation.operation_id
        task, cancelled = asyncio.current_task(), False

        def cancel() -> None:
            nonlocal cancelled
            if task is not None:
                cancelled = task.cancel()

        try:
            # All has arrived, and would have to arrive again.
            async with await patiently(lambda: self._operations.begin(scope, operation, cancel=cancel)) as running:
                async with self._verifying:
                    verified = await verify(path)
                hash_key = await self._patient.write(
                    begin_import, scope, import_id=import_id, hash_key=self._clock.new_key(), now=self._clock.now()
                )
                if hash_key is None:
                    raise ImportRunning
                staging = Staging(self._patient, scope, path, verified, hash_key, storage_limit=self._storage_limit)
                try:
                    imported = await staging.run(running)
                    # A commit that is under way cannot be taken back.
                    running.decided = True
                    revision = await self._patient.write(
                        complete_import, scope, import_id=import_id, counts=imported.stored, now=self._clock.now()
                    )
                except Exception:
                    running.decided = False
                    await self._end(scope, import_id, ImportState.STAGING)
                    raise
                imported.add(await self._end(scope, import_id, ImportState.REVEALING))
                return imported, revision
        except Refused as exc:
            raise _invalid(exc) from None
        except asyncio.CancelledError:
            # The caller is not who was cancelled.
            raise OperationCancelled() if cancelled else OperationInterrupted() from None
        finally:
            delete(path)


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    """Reads some of what still comes, without keeping it: a caller that is sending may not see why it is refused."""
    left = DRAINED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return


def _invalid(refused: Refused) -> ImportInvalid:
    return ImportInvalid(line=refused.line, fault=refused.fault, detail=refused.detail)
