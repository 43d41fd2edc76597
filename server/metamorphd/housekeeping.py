"""Periodic deletion of expired data."""

import asyncio
import contextlib
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.models.caller import server_scope
from metamorphd.store.attachments import prune_attachments
from metamorphd.store.database import Database, SystemOperation
from metamorphd.store.turns.events import prune_events

ROUND_SECONDS = 60.0
# A large DELETE would hold up every write; so many rows are gone in about a millisecond, and others get their turn.
PRUNED_EVENTS = 500
# Each may be of twenty megabytes, which go in about a millisecond too.
PRUNED_ATTACHMENTS = 8
PAUSE_SECONDS = 0.02
UNUSED_ATTACHMENT = 24 * 3_600_000_000

Prune = SystemOperation[..., int]

logger = structlog.get_logger(__name__)


class Housekeeping:
    """Rounds while the server runs. `event_retention_hours` is how long a turn's events outlive it."""

    def __init__(self, *, database: Database, clock: Clock, event_retention_hours: float) -> None:
        self._database = database
        self._clock = clock
        self._event_retention = int(event_retention_hours * 3600e6)

    async def __aenter__(self) -> Self:
        """Starts, once the store is open."""
        self._rounds = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops between two deletions."""
        self._rounds.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._rounds

    async def sweep(self) -> None:
        """One round."""
        now = self._clock.now()
        await self._prune(prune_events, before=now - self._event_retention, limit=PRUNED_EVENTS)
        await self._prune(prune_attachments, before=now - UNUSED_ATTACHMENT, limit=PRUNED_ATTACHMENTS)

    async def _prune(self, prune: Prune, *, before: int, limit: int) -> None:
        more = True
        while more:
            more = bool(await self._database.write_system(prune, server_scope(), before=before, limit=limit))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                logger.exception("housekeeping failed; it is tried again")
            await asyncio.sleep(ROUND_SECONDS)
