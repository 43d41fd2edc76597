"""Searches memories, and remembers which were used."""

import asyncio
from collections import defaultdict

from metamorphd.clock import Clock
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.memory import MemoryMatch, MemoryType
from metamorphd.store.database import Database
from metamorphd.store.memories.change import expire_memory, list_expired_memories, use_memories
from metamorphd.store.memories.search import search_memories, words_of_query

DAY = 86_400_000_000
# That a memory was used is stored seconds later, so that a search only reads. More uses than these are forgotten.
MOST_USES = 10_000
STEP_USES = 100
EXPIRED = 20
EXPIRY_INTERVAL = 60_000_000
PAUSE_SECONDS = 0.02


class Memories:
    """The memories of vaults, whose recency halves every `half_life_days`."""

    def __init__(self, *, database: Database, clock: Clock, half_life_days: float) -> None:
        self._database = database
        self._clock = clock
        self._half_life = int(half_life_days * DAY)
        # By vault and ID, when.
        self._used: dict[tuple[str, str], int] = {}
        self._expiry_due = 0

    async def search(
        self,
        scope: Scope,
        *,
        query: str,
        type_: MemoryType | None,
        limit: int,
        common_words: bool = True,
        used: bool = True,
    ) -> list[MemoryMatch]:
        """Returns the best `limit` memories that have words of a query, best first. They count as used, if `used`.

        `common_words` is as for `search_memories`.
        """
        now = self._clock.now()
        found = await self._database.read(
            search_memories,
            scope,
            words=words_of_query(query),
            type_=type_,
            limit=limit,
            common_words=common_words,
            half_life=self._half_life,
            now=now,
        )
        for match in found if used else ():
            key = (scope.vault_id, match.memory.memory_id)
            if key in self._used or len(self._used) < MOST_USES:
                self._used[key] = now
        return found

    async def work(self) -> None:
        """Stores which memories were used, and once a minute deletes those that have expired."""
        used, self._used = self._used, {}
        now = max(used.values(), default=0)
        by_vault = defaultdict[str, list[str]](list)
        for vault_id, memory_id in used:
            by_vault[vault_id].append(memory_id)
        for vault_id, memory_ids in by_vault.items():
            for start in range(0, len(memory_ids), STEP_USES):
                step = memory_ids[start : start + STEP_USES]
                await self._database.write(use_memories, server_scope(vault_id), memory_ids=step, now=now)
                await asyncio.sleep(PAUSE_SECONDS)
        if self._clock.now() >= self._expiry_due:
            await self._expire()
            self._expiry_due = self._clock.now() + EXPIRY_INTERVAL

    async def _expire(self) -> None:
        now = self._clock.now()
        while expired := await self._database.read_system(
            list_expired_memories, server_scope(), now=now, limit=EXPIRED
        ):
            for vault_id, memory_id in expired:
                await self._database.write(expire_memory, server_scope(vault_id), memory_id=memory_id, now=now)
            await asyncio.sleep(PAUSE_SECONDS)
