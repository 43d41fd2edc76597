"""Reads the records of a vault as the lines of an export, in pages that are each of one snapshot."""

import asyncio
import contextlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

import orjson

from metamorphd.clock import Clock
from metamorphd.errors import SecretNotFound, SecretVersionDestroyed, SecretVersionNotFound
from metamorphd.models.caller import Scope
from metamorphd.models.export import Position, Records
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.database import Database
from metamorphd.store.export_kinds import SECRET_VERSION
from metamorphd.store.exports import read_records
from metamorphd.transfers.patience import Patient, patiently
from metamorphd.transfers.sealing import Recipient

PAGE_BYTES = 512 * 1024


class Pages:
    """Reads vaults for exports."""

    def __init__(self, *, database: Database, secrets: Secrets, clock: Clock) -> None:
        self._database = Patient(database)
        self._secrets = secrets
        self._clock = clock

    async def read(self, scope: Scope, recipient: Recipient | None) -> AsyncGenerator[Records]:
        """Yields all records of a vault.

        Values of secrets are with them, encrypted for the recipient if there is one. Each is a read in the log.
        """
        async with contextlib.aclosing(self._records(scope)) as pages:
            async for records in pages:
                if recipient is not None and SECRET_VERSION.name in records.counts:
                    lines = await self._with_values(scope, records.lines, recipient)
                    yield replace(records, lines=lines)
                else:
                    yield records

    async def _records(self, scope: Scope) -> AsyncGenerator[Records]:
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
            _, value, _ = await patiently(
                lambda: self._secrets.get(scope, name=record["name"], version=record["version"])
            )
        except (SecretNotFound, SecretVersionNotFound, SecretVersionDestroyed):
            # Since it was listed.
            return line
        sealed = await asyncio.to_thread(recipient.seal, value)
        return line_of({**record, "sealed_value": b64encode(sealed).decode()})


def line_of(record: Mapping[str, object]) -> bytes:
    """Returns a record as it is in a file."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
