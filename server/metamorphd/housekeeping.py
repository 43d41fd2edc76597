"""Periodic work in small steps: deleting expired data, and indexing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import StorageFull
from metamorphd.models.caller import Scope, server_scope
from metamorphd.store.attachments import prune_attachments
from metamorphd.store.database import Database, SystemOperation
from metamorphd.store.idempotency import BEGINNING, prune_requests
from metamorphd.store.search.indexing import (
    add_pending_words,
    find_vault_to_index,
    index_earlier_messages,
    read_earlier_messages,
    read_pending_words,
)
from metamorphd.store.turns.events import prune_events

ROUND_SECONDS = 60.0
# The end of a long message is not found before.
INDEX_ROUND_SECONDS = 2.0
# A large DELETE would block every write. This many rows take about a millisecond, and other writes run in between.
PRUNED_EVENTS = 500
# Attachments have up to twenty megabytes each, which also take about a millisecond.
PRUNED_ATTACHMENTS = 8
# Requests are visited once a day, in the order of their keys.
VISITED_REQUESTS = 500
REQUESTS_INTERVAL = 24 * 3_600_000_000
PAUSE_SECONDS = 0.02
UNUSED_ATTACHMENT = 24 * 3_600_000_000

Prune = SystemOperation[..., int]

logger = structlog.get_logger(__name__)


class Housekeeping:
    """Works in periodic rounds while it is entered.

    `event_retention_hours` is how long a turn's events are kept after its end, and `request_retention_days` how long
    a request_id is known.
    """

    def __init__(
        self, *, database: Database, clock: Clock, event_retention_hours: float, request_retention_days: float
    ) -> None:
        self._database = database
        self._clock = clock
        self._event_retention = int(event_retention_hours * 3600e6)
        self._request_retention = int(request_retention_days * 24 * 3600e6)
        self._requests_due = 0

    async def __aenter__(self) -> Self:
        """Starts the rounds. The store must be open."""
        self._rounds = [
            asyncio.create_task(self._run(self._prune, ROUND_SECONDS)),
            asyncio.create_task(self._run(self._index, INDEX_ROUND_SECONDS)),
            asyncio.create_task(self._run(self._maintain, ROUND_SECONDS)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the rounds, between two steps."""
        for rounds in self._rounds:
            rounds.cancel()
        await asyncio.gather(*self._rounds, return_exceptions=True)

    async def sweep(self) -> None:
        """Runs one round of each kind."""
        await self._prune()
        await self._index()
        await self._maintain()

    async def _prune(self) -> None:
        """Deletes what is expired."""
        now = self._clock.now()
        await self._prune_all(prune_events, before=now - self._event_retention, limit=PRUNED_EVENTS)
        await self._prune_all(prune_attachments, before=now - UNUSED_ATTACHMENT, limit=PRUNED_ATTACHMENTS)
        if now >= self._requests_due:
            await self._prune_requests(before=now - self._request_retention)
            self._requests_due = now + REQUESTS_INTERVAL

    async def _prune_requests(self, *, before: int) -> None:
        after: tuple[str, str, str] | None = BEGINNING
        while after is not None:
            after = await self._database.write_system(
                prune_requests, server_scope(), after=after, before=before, limit=VISITED_REQUESTS
            )
            await asyncio.sleep(PAUSE_SECONDS)

    async def _prune_all(self, prune: Prune, *, before: int, limit: int) -> None:
        more = True
        while more:
            more = bool(await self._database.write_system(prune, server_scope(), before=before, limit=limit))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _index(self) -> None:
        """Indexes what was not indexed when it was stored, a step in each vault in turn."""
        turn_of, found = "", await self._database.read_system(find_vault_to_index, server_scope(), after="")
        while found is not None or turn_of:
            if found is not None:
                await self._index_in(server_scope(found))
                await asyncio.sleep(PAUSE_SECONDS)
            turn_of = found or ""
            found = await self._database.read_system(find_vault_to_index, server_scope(), after=turn_of)

    async def _index_in(self, scope: Scope) -> None:
        if pending := await self._database.read(read_pending_words, scope):
            await self._database.write(add_pending_words, scope, pending=pending)
        elif (messages := await self._database.read(read_earlier_messages, scope)) is not None:
            await self._database.write(index_earlier_messages, scope, messages=messages)

    async def _maintain(self) -> None:
        """Does what the database has to do itself."""
        more = True
        while more:
            more = await self._database.maintain()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _run(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await work()
            except StorageFull:
                logger.warning("housekeeping waits for free space")
            except Exception:
                logger.exception("housekeeping failed; retrying in the next round")
            await asyncio.sleep(seconds)
