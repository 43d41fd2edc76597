"""Exports: the server writes a file of what a vault stores, and callers read it, as far as it is there.

The vault is read in pages, each of one snapshot, because a snapshot of all of it would keep the write-ahead log from
being begun anew. The file stays for some time, so that a call which goes on later brings the same bytes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from io import FileIO
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import (
    DomainError,
    ExportNotFound,
    FieldViolation,
    Internal,
    OperationCancelled,
    OperationInterrupted,
    RequestInvalid,
    StorageFull,
    VaultDeleted,
    VaultSuspended,
)
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.export import ExportStart, Records
from metamorphd.models.operation import OperationKind
from metamorphd.models.span import NOT_RECORDED
from metamorphd.operations import Operations, Running
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.audit import record_event
from metamorphd.store.database import Database
from metamorphd.store.exports import begin_export
from metamorphd.transfers.appended import Appended
from metamorphd.transfers.files import ExportFiles
from metamorphd.transfers.pages import Pages, line_of
from metamorphd.transfers.sealing import KeyInvalid, Recipient
from metamorphd.transfers.threads import Threads
from metamorphd.transfers.writing import Writing
from metamorphd.vault_states import VaultStates

SENT_BYTES = 256 * 1024
RETRY_SECONDS = 30.0
# JSON has names, and attachments are in base64.
EXPECTED_PERCENT = 150
# As the audit names it.
METHOD = "metamorph.vault.v1.VaultService/ExportVault"
# Of those that write, which may wait for a slow disk, and of all others.
THREADS = 2

logger = structlog.get_logger(__name__)


class Exports:
    """The exports of vaults, while it is entered. Files are kept for `retention_hours` in `directory`."""

    def __init__(
        self,
        *,
        database: Database,
        operations: Operations,
        states: VaultStates,
        secrets: Secrets,
        clock: Clock,
        directory: Path,
        retention_hours: float,
    ) -> None:
        self._database = database
        self._operations = operations
        self._states = states
        self._secrets = secrets
        self._pages = Pages(database=database, secrets=secrets, clock=clock)
        self._clock = clock
        self._files = ExportFiles(directory)
        self._retention_seconds = retention_hours * 3600
        # By vault, those of this server.
        self._writings: dict[str, Writing] = {}
        # Of each export, how many calls read it.
        self._readers = Counter[str]()
        self._writers, self._threads = Threads("export", count=THREADS), Threads("export-file", count=THREADS)
        # By vault, while one is replaced.
        self._replacing = WeakValueDictionary[str, asyncio.Lock]()
        states.listen(self._stop_refused)

    async def __aenter__(self) -> Self:
        await self._threads.run(self._files.prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops what is being written, which is deleted by the next server."""
        for vault_id in list(self._writings):
            await self._stop(vault_id, OperationInterrupted())
        self._writers.close()
        self._threads.close()

    async def begin(self, scope: Scope, *, recipient: str) -> Writing:
        """Begins an export in the place of the vault's other one. The server goes on when the caller is gone.

        Raises StorageFull, TooManyOperations, RequestInvalid for a recipient that is none, and EncryptionNotConfigured
        if there is one and the server cannot read secrets.
        """
        # Shielded: a caller who is gone must not leave an operation that nobody does.
        return await asyncio.shield(self._begin(scope.within(NOT_RECORDED), recipient))

    async def _begin(self, scope: Scope, recipient: str) -> Writing:
        sealing = _recipient(recipient)
        if sealing is not None:
            self._secrets.require()
        now = self._clock.now()
        start = await self._database.write(begin_export, scope, hash_key=self._clock.new_key(), now=now)
        expected = start.stored_bytes * EXPECTED_PERCENT // 100
        await self._threads.run(self._require_space, expected)
        export_id = self._clock.new_id("exp")
        new = self._operations.new(scope, OperationKind.EXPORT_VAULT, target=export_id, unit="bytes", total=expected)
        path = self._files.partial(scope.vault_id, export_id)
        writing = Writing(
            export_id, scope.vault_id, path, create_time=now, expected_size=expected, operation_id=new.operation_id
        )
        # Of two at once, the second takes the place of the first.
        async with self._replacing.setdefault(scope.vault_id, asyncio.Lock()), contextlib.AsyncExitStack() as ending:
            # First: one that is refused takes the place of none.
            running = await self._operations.begin(scope, new, cancel=lambda: writing.stop(OperationCancelled()))
            await ending.enter_async_context(running)
            await self._replace(writing, scope)
            ending.pop_all()
            writing.running = running
            writing.task = asyncio.create_task(self._write(writing, running, scope, start, sealing))
            self._writings[scope.vault_id] = writing
            # What was decided since the operation was stored.
            self._stop_refused()
        return writing

    async def _replace(self, writing: Writing, scope: Scope) -> None:
        """Makes the file of an export in the place of the vault's other ones. Raises StorageFull."""
        replaced = self._writings.get(writing.vault_id)
        if replaced is not None and replaced.running is not None:
            replaced.running.cancel(scope)
        await self._stop(writing.vault_id, OperationCancelled())
        try:
            await self._threads.run(self._files.create, writing.vault_id, writing.export_id)
        except OSError as exc:
            raise StorageFull(retry_delay=RETRY_SECONDS) from exc

    async def _find(self, scope: Scope, *, export_id: str) -> Writing:
        writing = self._writings.get(scope.vault_id)
        own = writing if writing is not None and writing.export_id == export_id else None
        if own is not None and not own.complete and own.error is None:
            return own
        kept = await self._threads.run(self._files.find, scope.vault_id, export_id, since=self._oldest())
        if kept is None:
            raise ExportNotFound(export_id=export_id)
        path, size = kept
        found = own or Writing(export_id, scope.vault_id, path, create_time=0, expected_size=size)
        found.complete, found.written = True, size
        return found

    async def take(self, scope: Scope, *, export_id: str) -> Writing:
        """Returns an export of the vault, to be read by the scope's user, which is in the vault's log from then on.

        Raises ExportNotFound.
        """
        writing = await self._find(scope, export_id=export_id)
        await self._database.write(
            record_event,
            scope,
            resource=ChangedResource.CALL,
            resource_id=METHOD,
            verb=ChangeVerb.READ,
            details={"export_id": export_id},
            now=self._clock.now(),
        )
        return writing

    async def read(self, writing: Writing, *, offset: int) -> AsyncGenerator[bytes]:
        """Yields the bytes of an export from an offset on, as they are written.

        Raises OperationCancelled if it is cancelled meanwhile, also by another one, ExportNotFound if it is complete
        and deleted, StorageFull, and RequestInvalid for an offset beyond its end.
        """
        self._readers[writing.export_id] += 1
        try:
            while await writing.beyond(offset):
                # What follows may be taken back.
                size = min(SENT_BYTES, writing.written - offset)
                chunk = await self._threads.run(self._files.read, writing.path, size, offset)
                if not chunk:
                    raise (writing.error or ExportNotFound(export_id=writing.export_id)).with_traceback(None)
                yield chunk
                offset += len(chunk)
        finally:
            self._readers -= Counter({writing.export_id: 1})
        if offset > writing.written:
            raise _invalid("offset", f"the export has {writing.written} bytes")

    async def work(self) -> None:
        """Deletes the files that were kept for long enough, once nobody is reading them, and those of deleted vaults.

        A deletion does so itself, unless a crash cuts it short.
        """
        kept = frozenset(self._readers)
        await self._threads.run(self._files.delete_older, self._oldest(), kept=kept)
        for vault_id in await self._threads.run(self._files.having, self._states.deleted):
            # Not those of a new life.
            async with self._replacing.setdefault(vault_id, asyncio.Lock()):
                if vault_id in self._states.deleted:
                    await self._threads.run(self._files.delete_all, vault_id)
        for vault_id, writing in list(self._writings.items()):
            if writing.task is not None and writing.task.done() and not writing.path.exists():
                del self._writings[vault_id]

    async def forget(self, vault_id: str) -> None:
        """Deletes the files of a vault that is deleted, and stops what is being written."""
        await self._stop(vault_id, OperationCancelled())
        await self._threads.run(self._files.delete_all, vault_id)

    async def _stop(self, vault_id: str, error: DomainError) -> None:
        writing = self._writings.pop(vault_id, None)
        if writing is not None and writing.task is not None:
            writing.stop(error)
            await asyncio.wait({writing.task})

    def _stop_refused(self) -> None:
        """Stops what is written for vaults that are not active any more."""
        for writing in self._writings.values():
            try:
                self._states.check(writing.vault_id)
            except (VaultSuspended, VaultDeleted) as refusal:
                writing.stop(refusal.with_traceback(None))

    def _oldest(self) -> float:
        """Returns when a file must have been completed to be kept, in seconds since the epoch."""
        return self._clock.now() / 1e6 - self._retention_seconds

    def _require_space(self, size: int) -> None:
        if not self._database.fits(self._files.directory.parent, size):
            raise StorageFull(retry_delay=RETRY_SECONDS)

    async def _write(
        self, writing: Writing, running: Running, scope: Scope, start: ExportStart, recipient: Recipient | None
    ) -> None:
        # What it ends with is known to those who read, and stored.
        with contextlib.suppress(DomainError):
            async with running:
                try:
                    writing.begin()
                    await self._write_all(writing, running, scope, start, recipient)
                except asyncio.CancelledError:
                    writing.error = writing.error or OperationInterrupted()
                except DomainError as exc:
                    writing.error = exc
                except OSError as exc:
                    writing.error = StorageFull(retry_delay=RETRY_SECONDS)
                    logger.warning("an export cannot be written", export_id=writing.export_id, error=str(exc))
                except Exception:
                    writing.error = Internal()
                    logger.exception("an export failed", export_id=writing.export_id)
                finally:
                    writing.grow(0)
                    if not writing.complete:
                        with contextlib.suppress(OSError):
                            self._files.discard(writing.path)
                if writing.error is not None:
                    raise writing.error

    async def _write_all(
        self, writing: Writing, running: Running, scope: Scope, start: ExportStart, recipient: Recipient | None
    ) -> None:
        with _appended(writing.path) as file:
            appended = Appended(file, require_space=self._require_space)

            async def add(records: Records) -> None:
                await self._writers.run(appended.add, records)
                writing.count(records.counts)
                writing.grow(appended.kept - writing.written)
                running.advance(writing.written, total=max(writing.written, writing.expected_size))

            await add(Records(line_of(writing.header(start.revision, sealed=recipient is not None))))
            async with contextlib.aclosing(self._pages.read(scope, recipient)) as pages:
                async for records in pages:
                    await add(records)
            await add(Records(line_of(writing.trailer(appended.sha256))))
        writing.path = await self._writers.run(self._files.complete, writing.path)
        writing.complete = True
        running.advance(writing.written, total=writing.written)
        running.count(**writing.counts)


def _appended(path: Path) -> FileIO:
    return open(path, "ab", buffering=0)


def _recipient(text: str) -> Recipient | None:
    try:
        return Recipient(text) if text else None
    except KeyInvalid:
        raise _invalid("secrets_recipient", "is not an age recipient") from None


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid(violations=[FieldViolation(field, description)])
