"""Imports: a file that arrives is verified, staged hidden in the vault, and revealed once everything is there.

Until the commit that decides it, an import has stored nothing that anybody sees, and what it has staged is erased, also
after a crash. From then on it is complete, and what is left to be revealed is revealed by the next start.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import ImportInvalid, ImportRunning, StorageFull
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.imports import Imported, ImportState, Line, Refused
from metamorphd.models.operation import Operation, OperationKind
from metamorphd.models.span import NOT_RECORDED
from metamorphd.operations import Operations, Running
from metamorphd.store.database import Database
from metamorphd.store.imports import begin_import, complete_import, discard_import, end_import_step, list_imports
from metamorphd.store.staging import stage_attachment, stage_chunk, stage_messages, stage_records, stage_session
from metamorphd.store.storage import require_storage
from metamorphd.transfers.verification import Arriving, chunk_bytes, read, verify

AHEAD_BYTES = 16 * 2**20
DRAINED_BYTES, DRAIN_SECONDS = 32 * 2**20, 5.0
READ_BYTES = 256 * 1024
# The most that a step stages, but one record whole.
STEP_RECORDS, STEP_BYTES = 4, 8_192
# Between two steps, so that others write.
PAUSE_SECONDS = 0.001
VISITED_VAULTS = 100
RETRY_SECONDS = 30.0
OF_SESSION = ("message", "turn")
OF_ATTACHMENT = ("attachment", "attachment_chunk")
# Values are encrypted for somebody else, and a secret without a value is none.
LEFT_OUT = ("secret", "secret_version", "")

logger = structlog.get_logger(__name__)


class Imports:
    """The imports into vaults, while it is entered. Files are in `directory` until they are staged."""

    def __init__(
        self, *, database: Database, operations: Operations, clock: Clock, directory: Path, storage_limit: int
    ) -> None:
        self._database = database
        self._operations = operations
        self._clock = clock
        self._directory = directory
        self._storage_limit = storage_limit
        # By vault. Verifying takes a processor, and the memory of a line.
        self._running: set[str] = set()
        self._tasks: dict[asyncio.Task[tuple[Imported, int]], str] = {}
        self._verifying = asyncio.Semaphore(1)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops what is being imported. The next start completes or discards it."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def receive(self, scope: Scope, chunks: AsyncIterator[bytes]) -> tuple[Imported, int, str]:
        """Imports a file, and returns what was imported, the vault's revision then, and the ID of the operation.

        Once all has arrived, the server goes on when the caller is gone. Raises ImportRunning, ImportInvalid,
        StorageFull, StorageQuotaExceeded, TooManyOperations.
        """
        if scope.vault_id in self._running:
            raise ImportRunning
        self._running.add(scope.vault_id)
        try:
            await self._database.read(require_storage, scope, added_bytes=1, default_limit=self._storage_limit)
            import_id = self._clock.new_id("imp")
            path = self._directory / import_id
            size = await self._received(path, chunks)
        except BaseException:
            self._running.discard(scope.vault_id)
            raise
        operation = self._operations.new(scope, OperationKind.IMPORT_VAULT, unit="bytes", total=size)
        task = asyncio.create_task(self._import(scope, import_id, path, operation))
        self._tasks[task] = scope.vault_id
        task.add_done_callback(self._tasks.pop)
        task.add_done_callback(lambda _: self._running.discard(scope.vault_id))
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
            await self._database.write(discard_import, scope, import_id=import_id)
        imported = Imported()
        while (step := await self._database.write(end_import_step, scope, now=self._clock.now())) is not None:
            imported.add(step)
            await asyncio.sleep(PAUSE_SECONDS)
        return imported

    def _prepare(self) -> None:
        for left in self._directory.glob("*"):
            left.unlink()

    async def _received(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        """Writes what arrives to a file, and returns its size. Removes the file if something goes wrong."""
        arriving, size, ahead = Arriving(), 0, 0
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                async for chunk in chunks:
                    arriving.add(chunk)
                    ahead -= len(chunk)
                    if ahead < 0:
                        ahead = AHEAD_BYTES
                        # As much again as is there, as at the end: a file that never ends leaves others half.
                        await self._require_space(AHEAD_BYTES + size)
                    await asyncio.to_thread(_write, file, chunk)
                    size += len(chunk)
            # What it stores takes about as much again.
            await self._require_space(size)
        except BaseException as exc:
            _remove(path)
            if isinstance(exc, Refused):
                await _drained(chunks)
                raise _invalid(exc) from None
            if isinstance(exc, OSError):
                raise StorageFull(retry_delay=RETRY_SECONDS) from exc
            raise
        return size

    async def _require_space(self, size: int) -> None:
        if not await asyncio.to_thread(self._database.fits, self._directory.parent, size):
            raise StorageFull(retry_delay=RETRY_SECONDS)

    async def _import(self, scope: Scope, import_id: str, path: Path, operation: Operation) -> tuple[Imported, int]:
        scope = scope.within(NOT_RECORDED)
        staging = _Staging(self._database, scope, path, storage_limit=self._storage_limit)
        task, complete = asyncio.current_task(), False

        def cancel() -> None:
            if task is not None and not complete:
                task.cancel()

        try:
            async with await self._operations.begin(scope, operation, cancel=cancel) as running:
                async with self._verifying:
                    await asyncio.to_thread(verify, path)
                if not await self._database.write(
                    begin_import, scope, import_id=import_id, hash_key=self._clock.new_key(), now=self._clock.now()
                ):
                    raise ImportRunning
                try:
                    imported = await staging.run(running)
                    revision = await self._database.write(
                        complete_import, scope, import_id=import_id, now=self._clock.now()
                    )
                except Exception:
                    await self._end(scope, import_id, ImportState.STAGING)
                    raise
                complete = True
                imported.add(await self._end(scope, import_id, ImportState.REVEALING))
                running.count(**imported.stored)
                return imported, revision
        except Refused as exc:
            raise _invalid(exc) from None
        finally:
            _remove(path)


class _Staging:
    """Stages a verified file: attachments first, because messages hold them."""

    def __init__(self, database: Database, scope: Scope, path: Path, *, storage_limit: int) -> None:
        self._database = database
        self._scope = scope
        self._path = path
        self._limit = storage_limit
        self._imported = Imported()
        # The session whose messages follow, and whether the vault has it already.
        self._session_id, self._known = "", False

    async def run(self, running: Running) -> Imported:
        """Returns what was staged as rows, and what was left out. Raises Refused, StorageFull, StorageQuotaExceeded."""
        done = 0
        for pick, stage in ((self._of_attachments, self._attachments), (self._of_others, self._others)):
            async with contextlib.aclosing(_batches(filter(pick, read(self._path)))) as batches:
                async for batch in batches:
                    await stage(batch)
                    done += sum(line.size for line in batch)
                    running.advance(done)
        return self._imported

    def _of_attachments(self, line: Line) -> bool:
        return line.kind in OF_ATTACHMENT

    def _of_others(self, line: Line) -> bool:
        return line.kind not in OF_ATTACHMENT

    async def _attachments(self, lines: list[Line]) -> None:
        for line in lines:
            if line.kind == "attachment":
                new = await self._database.write(stage_attachment, self._scope, line=line, storage_limit=self._limit)
            else:
                new = await self._database.write(stage_chunk, self._scope, line=line, data=chunk_bytes(line))
            self._imported.count(line.kind, stored=new)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _others(self, lines: list[Line]) -> None:
        for kind, group in itertools.groupby(lines, key=_group):
            for step in _steps(group):
                if kind == "session":
                    await self._session(step)
                elif kind in LEFT_OUT:
                    self._imported.skipped.update(line.kind or "unknown" for line in step)
                elif kind == "of a session" and self._known:
                    self._imported.skipped.update(line.kind for line in step)
                else:
                    await self._step(kind, step)

    async def _session(self, lines: list[Line]) -> None:
        for line in lines:
            self._session_id = line.record["session_id"]
            self._known = not await self._database.write(
                stage_session, self._scope, line=line, storage_limit=self._limit
            )
            self._imported.count("session", stored=not self._known)

    async def _step(self, kind: str, lines: list[Line]) -> None:
        if kind == "of a session":
            await self._database.write(
                stage_messages, self._scope, session_id=self._session_id, lines=lines, storage_limit=self._limit
            )
            self._imported.stored.update(line.kind for line in lines)
        else:
            await self._database.write(stage_records, self._scope, lines=lines, storage_limit=self._limit)
        await asyncio.sleep(PAUSE_SECONDS)


def _group(line: Line) -> str:
    """Returns what is staged together."""
    if line.kind in OF_SESSION:
        return "of a session"
    return line.kind if line.kind in ("session", *LEFT_OUT) else "others"


def _steps(lines: Iterable[Line]) -> Iterator[list[Line]]:
    step: list[Line] = []
    size = 0
    for line in lines:
        if step and (len(step) >= STEP_RECORDS or size + line.size > STEP_BYTES):
            yield step
            step, size = [], 0
        step.append(line)
        size += line.size
    if step:
        yield step


async def _batches(lines: Iterator[Line]) -> AsyncGenerator[list[Line]]:
    """Yields lines as they are read on a thread, some at a time."""

    def batch() -> list[Line]:
        found: list[Line] = []
        size = 0
        for line in lines:
            found.append(line)
            size += line.size
            if size >= READ_BYTES:
                break
        return found

    while found := await asyncio.to_thread(batch):
        yield found


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    """Reads some of what still comes, without keeping it: a caller that is sending may not see why it is refused."""
    left = DRAINED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return


def _remove(path: Path) -> None:
    # Not on a thread, for which a cancelled task could not wait.
    path.unlink(missing_ok=True)


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _invalid(refused: Refused) -> ImportInvalid:
    return ImportInvalid(line=refused.line, fault=refused.fault, detail=refused.detail)
