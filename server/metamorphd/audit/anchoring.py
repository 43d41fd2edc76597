"""Writes the heads of logs to the log stream, so that what is cut off their ends, or rewritten, is found elsewhere."""

import asyncio

import structlog

from metamorphd.audit.stamping import Stamping
from metamorphd.chain import Head, HeadsDigest
from metamorphd.clock import Clock
from metamorphd.models.audit import LogHead
from metamorphd.models.caller import server_scope
from metamorphd.store.database import Database
from metamorphd.store.verification import list_log_heads

INTERVAL_SECONDS = 600
PAGE_LOGS = 200
PAUSE_SECONDS = 0.02
# In a line, and in a round; those that are left come first in the next one.
LINE_HEADS, ROUND_HEADS = 50, 1_000
# Times of calls are a little out of order.
OUT_OF_ORDER = 60_000_000
# What a server before this one may not have written any more.
LOOK_BACK = 24 * 3_600_000_000

logger = structlog.get_logger(__name__)


class Anchoring:
    """Logs the heads of the logs that have new entries, in rounds over all vaults, and has them time-stamped."""

    def __init__(self, *, database: Database, clock: Clock, stamping: Stamping) -> None:
        self._database = database
        self._clock = clock
        self._stamping = stamping
        self._due = 0
        self._after = ""
        # When the last pass over all vaults was begun, and this one.
        self._since = clock.now() - LOOK_BACK
        self._begun = 0

    async def work(self) -> None:
        """Does a round, every INTERVAL_SECONDS, and has stamped what waits for it."""
        now = self._clock.now()
        if now >= self._due:
            self._due = now + INTERVAL_SECONDS * 1_000_000
            await self._round(now)
        # Lines do not wait for the authority.
        await self._stamping.work()

    async def _round(self, now: int) -> None:
        left = ROUND_HEADS
        if not self._after:
            self._begun = now
        while left > 0:
            page = await self._database.read_system(list_log_heads, server_scope(), after=self._after, limit=PAGE_LOGS)
            if not page:
                self._after, self._since = "", self._begun
                return
            self._after = page[-1].vault_id
            new = [head for head in page if head.mac and head.change_time >= self._since - OUT_OF_ORDER]
            left -= len(new)
            for first in range(0, len(new), LINE_HEADS):
                self._log(new[first : first + LINE_HEADS])
            await asyncio.sleep(PAUSE_SECONDS)

    def _log(self, heads: list[LogHead]) -> None:
        logger.info("audit heads", heads=[[head.vault_id, head.revision, head.mac.hex()] for head in heads])
        digest = HeadsDigest()
        for head in heads:
            digest.add(head.vault_id, Head(head.revision, head.mac))
        self._stamping.add(digest.digest)
