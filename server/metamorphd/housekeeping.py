"""Periodic work in small steps: deleting expired data, and erasing what was deleted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.models.caller import server_scope
from metamorphd.store.attachments import prune_attachments
from metamorphd.store.database import Database, SystemOperation
from metamorphd.store.erasure import count_deleted_sessions, erase_step, find_deleted_session
from metamorphd.store.turns.events import prune_events

ROUND_SECONDS = 60.0
# How long a deleted session waits before it begins to be erased.
ERASE_ROUND_SECONDS = 1.0
# A large DELETE would block every write. This many rows take about a millisecond, and other writes run in between.
PRUNED_EVENTS = 500
# Attachments have up to twenty megabytes each, which also take about a millisecond.
PRUNED_ATTACHMENTS = 8
PAUSE_SECONDS = 0.02
# A step of a few milliseconds, then as long for others.
ERASE_PAUSE_SECONDS = 0.005
UNUSED_ATTACHMENT = 24 * 3_600_000_000

Prune = SystemOperation[..., int]

logger = structlog.get_logger(__name__)


class Housekeeping:
    """Works in periodic rounds while it is entered.

    `event_retention_hours` is how long a turn's events are kept after its end. `deleted_sessions` is how many sessions
    were deleted and not erased yet, when it was last counted.
    """

    def __init__(self, *, database: Database, clock: Clock, event_retention_hours: float) -> None:
        self._database = database
        self._clock = clock
        self._event_retention = int(event_retention_hours * 3600e6)
        self.deleted_sessions = 0

    async def __aenter__(self) -> Self:
        """Starts the rounds. The store must be open."""
        self._rounds = [
            asyncio.create_task(self._run(self._prune, ROUND_SECONDS)),
            asyncio.create_task(self._run(self._erase, ERASE_ROUND_SECONDS)),
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
        await self._erase()

    async def _prune(self) -> None:
        """Deletes what is expired."""
        now = self._clock.now()
        await self._prune_all(prune_events, before=now - self._event_retention, limit=PRUNED_EVENTS)
        await self._prune_all(prune_attachments, before=now - UNUSED_ATTACHMENT, limit=PRUNED_ATTACHMENTS)

    async def _prune_all(self, prune: Prune, *, before: int, limit: int) -> None:
        more = True
        while more:
            more = bool(await self._database.write_system(prune, server_scope(), before=before, limit=limit))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _erase(self) -> None:
        """Erases deleted sessions, a step in each vault in turn."""
        self.deleted_sessions = await self._database.read_system(count_deleted_sessions, server_scope())
        after = ""
        while True:
            found = await self._database.read_system(find_deleted_session, server_scope(), after=after)
            if found is None and not after:
                break
            after = ""
            if found is not None:
                after, session_id = found
                await self._database.write(erase_step, server_scope(after), session_id=session_id)
                await asyncio.sleep(ERASE_PAUSE_SECONDS)
        self.deleted_sessions = await self._database.read_system(count_deleted_sessions, server_scope())

    async def _run(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("housekeeping failed; retrying in the next round")
            await asyncio.sleep(seconds)
