"""Stages a verified file in steps: attachments first, because messages hold them.

While the steps of some records are stored, those of the next ones are made. There is no pause between steps: vaults
take turns at the writer, so another one's write waits for one step at most.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from metamorphd.models.caller import Scope
from metamorphd.models.imports import Imported, Line
from metamorphd.operations import Running
from metamorphd.store.attachments import find_attachments
from metamorphd.store.search.postings import add_lists
from metamorphd.store.staged_rows import Step
from metamorphd.store.staging import find_sessions, reserve_numbers, stage_attachment, stage_chunk, stage_step
from metamorphd.transfers.attached import describe, named_in
from metamorphd.transfers.patience import Patient
from metamorphd.transfers.planning import Lists, Planning
from metamorphd.transfers.reading import read, with_pauses
from metamorphd.transfers.verification import OF_ATTACHMENT, Verified, chunk_bytes


class Staging:
    """Stages a file in the scope's vault, whose words are hashed with `hash_key`."""

    def __init__(
        self, database: Patient, scope: Scope, path: Path, verified: Verified, hash_key: bytes, *, storage_limit: int
    ) -> None:
        self._database = database
        self._scope = scope
        self._path = path
        self._verified = verified
        self._limit = storage_limit
        self._planning = Planning(hash_key)
        self._left_messages = verified.counts.get("message", 0)
        self._left_numbers = self._done = 0

    async def run(self, running: Running) -> Imported:
        """Returns what was staged as rows, and what was left out. Raises Refused, StorageFull, StorageQuotaExceeded."""
        if self._verified.attachments.end:
            await self._attachments(running)
        async with aclosing(self._planned()) as planned:
            async for steps, size in planned:
                for step in steps:
                    await self._store(step)
                self._advance(running, size)
        return self._planning.imported

    def _advance(self, running: Running, size: int) -> None:
        self._done += size
        running.advance(self._done)

    async def _attachments(self, running: Running) -> None:
        async with aclosing(read(self._path, self._verified.attachments)) as batches:
            async for batch in batches:
                for line in batch:
                    if line.kind in OF_ATTACHMENT:
                        await self._attachment(line)
                        self._advance(running, line.size)

    async def _attachment(self, line: Line) -> None:
        if line.kind == "attachment":
            new = await self._database.write(stage_attachment, self._scope, line=line, storage_limit=self._limit)
        else:
            data = chunk_bytes(line)
            part = {"attachment_id": line.record["attachment_id"], "number": line.record["number"]}
            new = await self._database.write(stage_chunk, self._scope, data=data, **part)
        self._planning.imported.count(line.kind, stored=new)

    async def _planned(self) -> AsyncGenerator[tuple[Sequence[Step | Lists], int]]:
        """Yields steps, and the bytes of the file that they take up, while the next ones are made."""
        async with aclosing(read(self._path)) as batches:
            making = asyncio.create_task(self._made(batches))
            try:
                while (made := await making) is not None:
                    making = asyncio.create_task(self._made(batches))
                    yield made
            finally:
                making.cancel()
                await asyncio.gather(making, return_exceptions=True)
        yield [step async for step in with_pauses(self._planning.rest())], 0

    async def _made(self, batches: AsyncGenerator[list[Line]]) -> tuple[Sequence[Step | Lists], int] | None:
        batch = await anext(batches, None)
        if batch is None:
            return None
        lines = [line for line in batch if line.kind not in OF_ATTACHMENT]
        ids = [line.record["session_id"] for line in lines if line.kind == "session"]
        known = await self._database.read(find_sessions, self._scope, session_ids=ids) if ids else {}
        named = await named_in(lines)
        found = await self._database.read(find_attachments, self._scope, attachment_ids=named) if named else {}
        await self._reserve(self._planning.wants_numbers(lines, known))
        self._left_messages -= sum(line.kind == "message" for line in lines)
        steps: list[Step | Lists] = []
        async for line in with_pauses(lines):
            if named and line.kind == "message":
                describe(line, found)
            steps += [step async for step in with_pauses(self._planning.steps(line, known))]
        return steps, sum(line.size for line in lines)

    async def _reserve(self, wanted: int) -> None:
        """Makes so many numbers of messages available."""
        while self._left_numbers < wanted:
            limit = self._left_messages - self._left_numbers
            numbers = await self._database.write(reserve_numbers, self._scope, limit=limit)
            self._planning.numbers.extend(numbers)
            self._left_numbers += len(numbers)
        self._left_numbers -= wanted

    async def _store(self, step: Step | Lists) -> None:
        if isinstance(step, Lists):
            await self._database.write(add_lists, self._scope, block=step.block, lists=step.lists)
        else:
            await self._database.write(stage_step, self._scope, step=step, storage_limit=self._limit)
