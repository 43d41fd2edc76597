"""Exports: the server writes a file of what a vault stores, and callers read it, as far as it is there.

The vault is read in pages, each of one snapshot, because a snapshot of all of it would keep the write-ahead log from
being begun anew. The file stays for some time, so that a call which goes on later brings the same bytes.
"""

import asyncio
import contextlib
import hashlib
import os
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

import orjson
import structlog

from metamorphd.clock import Clock
from metamorphd.errors import (
    DomainError,
    ExportNotFound,
    FieldViolation,
    Internal,
    RequestInvalid,
    SecretNotFound,
    SecretVersionDestroyed,
    SecretVersionNotFound,
    StorageFull,
)
from metamorphd.models.caller import Scope
from metamorphd.models.export import FORMAT, FORMAT_VERSION, Export, ExportStart, Position, Records
from metamorphd.models.span import NOT_RECORDED
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.database import Database
from metamorphd.store.export_kinds import SECRET_VERSION
from metamorphd.store.exports import begin_export, read_records
from metamorphd.transfers.files import ExportFiles
from metamorphd.transfers.sealing import KeyInvalid, Recipient

PAGE_BYTES = 512 * 1024
SENT_BYTES = 256 * 1024
# Space is asked for ahead, since many pages may be written until it is asked for again.
AHEAD_BYTES = 16 * 1024 * 1024
RETRY_SECONDS = 30.0
# JSON has names, and attachments are in base64.
EXPECTED_PERCENT = 150

logger = structlog.get_logger(__name__)


class Writing:
    """An export that is being written, or that this server has written. `written` is how many bytes are there."""

    def __init__(self, export_id: str, vault_id: str, path: Path, *, create_time: int, expected_size: int) -> None:
        self.export_id = export_id
        self.vault_id = vault_id
        self.path = path
        self.create_time = create_time
        self.expected_size = expected_size
        self.written = 0
        self.complete = False
        self.error: DomainError | None = None
        self.counts: dict[str, int] = {}
        self.task: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()

    @property
    def described(self) -> Export:
        """Returns what callers see of it."""
        size = self.written if self.complete else 0
        return Export(self.export_id, self.create_time, size, size or self.expected_size)

    def grow(self, size: int) -> None:
        """Records that `size` bytes were written, or that something else has happened, and wakes up those who read."""
        self.written += size
        self._grown.set()
        self._grown = asyncio.Event()

    async def beyond(self, offset: int) -> bool:
        """Returns whether there are bytes after `offset`, once that is known. Raises what has ended the writing."""
        while self.written <= offset and not self.complete and self.error is None:
            await self._grown.wait()
        if self.written <= offset and self.error is not None:
            raise self.error.with_traceback(None)
        return self.written > offset


class Exports:
    """The exports of vaults, while it is entered. Files are kept for `retention_hours` in `directory`."""

    def __init__(
        self, *, database: Database, secrets: Secrets, clock: Clock, directory: Path, retention_hours: float
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._clock = clock
        self._files = ExportFiles(directory)
        self._retention_seconds = retention_hours * 3600
        # By vault, those of this server.
        self._writings: dict[str, Writing] = {}
        # By vault, while one is replaced.
        self._replacing = WeakValueDictionary[str, asyncio.Lock]()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._files.prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops what is being written, which is deleted by the next server."""
        for vault_id in list(self._writings):
            await self._stop(vault_id)

    async def begin(self, scope: Scope, *, recipient: str) -> Writing:
        """Begins an export in the place of the vault's other one. The server goes on when the caller is gone.

        Raises StorageFull, RequestInvalid for a recipient that is none, and EncryptionNotConfigured if there is one and
        the server cannot read secrets.
        """
        sealing = _recipient(recipient)
        if sealing is not None:
            self._secrets.require()
        now = self._clock.now()
        start = await self._database.write(begin_export, scope, hash_key=self._clock.new_key(), now=now)
        expected = start.stored_bytes * EXPECTED_PERCENT // 100
        await asyncio.to_thread(self._require_space, expected)
        # Of two at once, the second takes the place of the first.
        async with self._replacing.setdefault(scope.vault_id, asyncio.Lock()):
            await self._stop(scope.vault_id)
            export_id = self._clock.new_id("exp")
            path = await asyncio.to_thread(self._files.create, scope.vault_id, export_id)
            writing = Writing(export_id, scope.vault_id, path, create_time=now, expected_size=expected)
            self._writings[scope.vault_id] = writing
            writing.task = asyncio.create_task(self._write(writing, replace(scope, span=NOT_RECORDED), start, sealing))
        return writing

    async def find(self, scope: Scope, *, export_id: str) -> Writing:
        """Returns an export of the vault. Raises ExportNotFound."""
        writing = self._writings.get(scope.vault_id)
        if writing is not None and writing.export_id == export_id:
            return writing
        path = await asyncio.to_thread(self._files.find, scope.vault_id, export_id)
        if path is None:
            raise ExportNotFound(export_id=export_id)
        size = (await asyncio.to_thread(path.stat)).st_size
        found = Writing(export_id, scope.vault_id, path, create_time=0, expected_size=size)
        found.complete, found.written = True, size
        return found

    async def read(self, writing: Writing, *, offset: int) -> AsyncGenerator[bytes]:
        """Yields the bytes of an export from an offset on, as they are written.

        Raises ExportNotFound if another one replaces it meanwhile, StorageFull, and RequestInvalid for an offset beyond
        its end.
        """
        with self._open(writing) as file:
            while await writing.beyond(offset):
                chunk = await asyncio.to_thread(os.pread, file.fileno(), SENT_BYTES, offset)
                yield chunk
                offset += len(chunk)
        if offset > writing.written:
            raise _invalid("offset", f"the export has {writing.written} bytes")

    async def work(self) -> None:
        """Deletes the files that were kept for long enough."""
        before = self._clock.now() / 1e6 - self._retention_seconds
        await asyncio.to_thread(self._files.delete_older, before)
        for vault_id, writing in list(self._writings.items()):
            if writing.task is not None and writing.task.done() and not writing.path.exists():
                del self._writings[vault_id]

    async def forget(self, vault_id: str) -> None:
        """Deletes the files of a vault, and stops what is being written."""
        await self._stop(vault_id)
        await asyncio.to_thread(self._files.delete_all, vault_id)

    async def _stop(self, vault_id: str) -> None:
        writing = self._writings.pop(vault_id, None)
        if writing is not None and writing.task is not None:
            writing.task.cancel()
            await asyncio.wait({writing.task})

    def _open(self, writing: Writing) -> FileIO:
        # Not on a thread: if the caller is cancelled meanwhile, nobody would close the file.
        # It is renamed once it is complete.
        for path in (writing.path, self._files.completed(writing.path)):
            with contextlib.suppress(FileNotFoundError):
                return open(path, "rb", buffering=0)
        raise ExportNotFound(export_id=writing.export_id)

    def _require_space(self, size: int) -> None:
        if not self._database.fits(self._files.directory.parent, size):
            raise StorageFull(retry_delay=RETRY_SECONDS)

    async def _write(self, writing: Writing, scope: Scope, start: ExportStart, recipient: Recipient | None) -> None:
        try:
            await self._write_all(writing, scope, start, recipient)
        except asyncio.CancelledError:
            writing.error = ExportNotFound(export_id=writing.export_id)
            raise
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
                    writing.path.unlink()

    async def _write_all(self, writing: Writing, scope: Scope, start: ExportStart, recipient: Recipient | None) -> None:
        hashed, ahead = hashlib.sha256(), 0
        with _appended(writing.path) as file:

            def append(lines: bytes) -> None:
                nonlocal ahead
                ahead -= len(lines)
                if ahead < 0:
                    ahead = AHEAD_BYTES
                    self._require_space(AHEAD_BYTES + len(lines))
                hashed.update(lines)
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]

            async def add(lines: bytes) -> None:
                await asyncio.to_thread(append, lines)
                writing.grow(len(lines))

            await add(_line(_header(writing, start, sealed=recipient is not None)))
            async with contextlib.aclosing(self._pages(scope)) as pages:
                async for records in pages:
                    for kind, count in records.counts.items():
                        writing.counts[kind] = writing.counts.get(kind, 0) + count
                    lines = records.lines
                    if recipient is not None and SECRET_VERSION.name in records.counts:
                        lines = await self._with_values(scope, lines, recipient)
                    if lines:
                        await add(lines)
            await add(_line(_trailer(writing, hashed.hexdigest())))
        writing.path = await asyncio.to_thread(self._files.complete, writing.path)
        writing.complete = True

    async def _pages(self, scope: Scope) -> AsyncGenerator[Records]:
        """Yields all records of a vault in pages, each read while the one before it is written."""

        def read(position: Position) -> asyncio.Task[Records]:
            now = self._clock.now()
            operation = self._database.read(read_records, scope, position=position, most_bytes=PAGE_BYTES, now=now)
            return asyncio.create_task(operation)

        reading: asyncio.Task[Records] | None = read(Position())
        try:
            while reading is not None:
                records = await reading
                reading = None if records.next is None else read(records.next)
                yield records
        finally:
            if reading is not None:
                reading.cancel()

    async def _with_values(self, scope: Scope, lines: bytes, recipient: Recipient) -> bytes:
        """Returns lines in which versions of secrets have their values, encrypted. Each is a read in the log."""
        begins = orjson.dumps({"kind": SECRET_VERSION.name})[:-1]
        return b"".join(
            [
                await self._with_value(scope, line, recipient) if line.startswith(begins) else line
                for line in lines.splitlines(keepends=True)
            ]
        )

    async def _with_value(self, scope: Scope, line: bytes, recipient: Recipient) -> bytes:
        record = orjson.loads(line)
        if record["destroy_time"] is not None:
            return line
        try:
            _, value, _ = await self._secrets.get(scope, name=record["name"], version=record["version"])
        except (SecretNotFound, SecretVersionNotFound, SecretVersionDestroyed):
            # Since it was listed.
            return line
        sealed = await asyncio.to_thread(recipient.seal, value)
        return _line({**record, "sealed_value": b64encode(sealed).decode()})


def _appended(path: Path) -> FileIO:
    return open(path, "ab", buffering=0)


def _recipient(text: str) -> Recipient | None:
    try:
        return Recipient(text) if text else None
    except KeyInvalid:
        raise _invalid("secrets_recipient", "is not an age recipient") from None


def _header(writing: Writing, start: ExportStart, *, sealed: bool) -> Mapping[str, object]:
    return {
        "kind": "header",
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "export_id": writing.export_id,
        "vault_id": writing.vault_id,
        "revision": start.revision,
        "create_time": writing.create_time,
        "secrets": "sealed" if sealed else "names",
    }


def _trailer(writing: Writing, sha256: str) -> Mapping[str, object]:
    return {"kind": "trailer", "counts": writing.counts, "sha256": sha256}


def _line(record: Mapping[str, object]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid(violations=[FieldViolation(field, description)])
