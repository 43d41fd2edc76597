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
# A large DELETE would block every write. This many rows take about a millisecond, and other writes run in between.
PRUNED_EVENTS = 500
# Attachments have up to twenty megabytes each, which also take about a millisecond.
PRUNED_ATTACHMENTS = 8
PAUSE_SECONDS = 0.02
UNUSED_ATTACHMENT = 24 * 3_600_000_000

Prune = SystemOperation[..., int]

logger = structlog.get_logger(__name__)


class Housekeeping:
    """Deletes expired data in periodic rounds while it is entered.

    `event_retention_hours` is how long a turn's events are kept after its end.
    """

    def __init__(self, *, database: Database, clock: Clock, event_retention_hours: float) -> None:
        self._database = database
        self._clock = clock
        self._event_retention = int(event_retention_hours * 3600e6)

    async def __aenter__(self) -> Self:
        """Starts the rounds. The store must be open."""
        self._rounds = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops the rounds, between two deletions."""
        self._rounds.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._rounds

    async def sweep(self) -> None:
        """Runs one round."""
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
                logger.exception("housekeeping failed; retrying in the next round")
            await asyncio.sleep(ROUND_SECONDS)
