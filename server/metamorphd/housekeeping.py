"""Periodic work in small steps: deleting expired data, erasing what was deleted, and indexing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Self, TypeVar

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import StorageFull, StoreBusy
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import OldestChange
from metamorphd.store.attachments import prune_attachments
from metamorphd.store.compaction import compact_changes, delete_entries, list_oldest_changes
from metamorphd.store.database import Database, SystemOperation
from metamorphd.store.erasure import erase_step, read_part
from metamorphd.store.erasures import Backlog, Erasure, find_erasure, get_backlog, postpone_erasure
from metamorphd.store.idempotency import BEGINNING, prune_requests
from metamorphd.store.operations import prune_operations
from metamorphd.store.retention import expire_sessions, list_retaining_vaults
from metamorphd.store.search.indexing import (
    add_pending_words,
    find_vault_to_index,
    index_earlier_messages,
    read_earlier_messages,
    read_pending_words,
)
from metamorphd.store.search.refolding import read_earlier_folded, refold_messages
from metamorphd.store.secrets import expire_secret, list_expired_secrets
from metamorphd.store.turns.events import prune_events
from metamorphd.store.vault_erasure import erase_vault_step, find_vault_to_erase

ROUND_SECONDS = 60.0
# The end of a long message is not found before.
INDEX_ROUND_SECONDS = 2.0
CHORE_ROUND_SECONDS = 2.0
# A large DELETE would block every write. This many rows take about a millisecond, and other writes run in between.
PRUNED_EVENTS = 500
PRUNED_ATTACHMENTS = 50
EXPIRED_SECRETS = 20
PRUNED_OPERATIONS = 200
OPERATION_RETENTION = 30 * 24 * 3_600_000_000
# Requests are visited once a day, in the order of their keys.
VISITED_REQUESTS = 500
REQUESTS_INTERVAL = 24 * 3_600_000_000
PAUSE_SECONDS = 0.02
# A round asks for the oldest change of every vault.
COMPACT_ROUND_SECONDS = 600.0
RETENTION_ROUND_SECONDS = 600.0
# Large entries take ten times as long as usual ones.
COMPACTED_CHANGES = 200
VISITED_VAULTS = 200
UNUSED_ATTACHMENT = 24 * 3_600_000_000
# The longest wait between a deletion and its first step.
ERASE_ROUND_SECONDS = 1.0
# A step takes the writer a few milliseconds, and others twice as long have it for themselves.
ERASE_PAUSE_SECONDS = 0.01
# One that cannot be erased lets others pass for so long.
ERASE_RETRY = 3_600_000_000
# Each takes half a millisecond, and more with many pairs of metadata.
EXPIRED_SESSIONS = 4
BACKLOG_SECONDS = 10.0

T = TypeVar("T")

Prune = SystemOperation[..., int]
Chore = Callable[[], Awaitable[None]]

logger = structlog.get_logger(__name__)


class Housekeeping:
    """Works in periodic rounds while it is entered.

    `event_retention_hours` is how long a turn's events are kept after its end, `request_retention_days` how long a
    request_id is known, `change_retention_days` how long those who watch a vault are shown its changes, and
    `audit_retention_days` how long entries of logs are kept.
    `chores` are other parts' work, which they do in steps.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        event_retention_hours: float,
        request_retention_days: float,
        change_retention_days: float = 7,
        audit_retention_days: float = 365,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._event_retention = int(event_retention_hours * 3600e6)
        self._request_retention = int(request_retention_days * 24 * 3600e6)
        self._change_retention = int(change_retention_days * 24 * 3600e6)
        self._audit_retention = int(audit_retention_days * 24 * 3600e6)
        self._oldest_change: int | None = None
        self._chores = chores
        self._requests_due = 0
        # Vaults that could not be erased, and when to try again.
        self._erase_after: dict[str, int] = {}
        self._backlog = Backlog()

    async def __aenter__(self) -> Self:
        """Starts the rounds. The store must be open."""
        self._rounds = [
            asyncio.create_task(self._run(self._prune, ROUND_SECONDS)),
            asyncio.create_task(self._run(self._erase, ERASE_ROUND_SECONDS)),
            asyncio.create_task(self._run(self._erase_vaults, ERASE_ROUND_SECONDS)),
            asyncio.create_task(self._run(self._count_backlog, BACKLOG_SECONDS)),
            asyncio.create_task(self._run(self._index, INDEX_ROUND_SECONDS)),
            asyncio.create_task(self._run(self._compact, COMPACT_ROUND_SECONDS)),
            asyncio.create_task(self._run(self._expire_sessions, RETENTION_ROUND_SECONDS)),
            *(asyncio.create_task(self._run(chore, CHORE_ROUND_SECONDS)) for chore in self._chores),
            asyncio.create_task(self._run(self._maintain, ROUND_SECONDS)),
            asyncio.create_task(self._run(self._check, ROUND_SECONDS)),
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
        await self._expire_sessions()
        await self._erase()
        await self._erase_vaults()
        await self._count_backlog()
        await self._index()
        await self._compact()
        for chore in self._chores:
            await chore()
        await self._maintain()
        await self._check()

    async def _prune(self) -> None:
        """Deletes what is expired."""
        now = self._clock.now()
        await self._prune_all(prune_events, before=now - self._event_retention, limit=PRUNED_EVENTS)
        await self._prune_all(prune_attachments, before=now - UNUSED_ATTACHMENT, limit=PRUNED_ATTACHMENTS, now=now)
        await self._prune_all(prune_operations, before=now - OPERATION_RETENTION, limit=PRUNED_OPERATIONS)
        await _until_done(lambda: self._expire_secrets(now))
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

    async def _prune_all(self, prune: Prune, **parameters: int) -> None:
        await _until_done(lambda: self._database.write_system(prune, server_scope(), **parameters))

    async def _expire_secrets(self, now: int) -> int:
        expired = await self._database.read_system(list_expired_secrets, server_scope(), now=now, limit=EXPIRED_SECRETS)
        for vault_id, name in expired:
            await self._database.write(expire_secret, server_scope(vault_id), name=name, now=now)
        return len(expired)

    async def _expire_sessions(self) -> None:
        """Deletes sessions that were not used for as long as their vaults keep them."""
        now, after = self._clock.now(), ""
        while vaults := await self._database.read_system(
            list_retaining_vaults, server_scope(), after=after, limit=VISITED_VAULTS
        ):
            for vault_id in vaults:
                await _until_done(partial(self._expire_some, vault_id, now))
            after = vaults[-1]

    async def _expire_some(self, vault_id: str, now: int) -> int:
        scope = server_scope(vault_id)
        return await self._database.write(expire_sessions, scope, now=now, limit=EXPIRED_SESSIONS)

    async def _erase(self) -> None:
        """Erases what was deleted."""
        await _in_turn(
            self._find_erasure, self._erase_part, vault=lambda found: found.vault_id, pause=ERASE_PAUSE_SECONDS
        )

    async def _find_erasure(self, after: str) -> Erasure | None:
        return await self._database.read_system(find_erasure, server_scope(), after=after, now=self._clock.now())

    async def _erase_part(self, erasure: Erasure) -> None:
        scope, now = server_scope(erasure.vault_id), self._clock.now()
        try:
            parts = await self._database.read(read_part, scope, erasure=erasure)
            await self._database.write(erase_step, scope, erasure=erasure, parts=parts, now=now)
        except (StorageFull, StoreBusy):
            raise
        except Exception:
            logger.exception("cannot be erased; retrying in an hour", resource=erasure.resource, id=erasure.id)
            await self._database.write(postpone_erasure, scope, erasure=erasure, until=now + ERASE_RETRY)

    async def _erase_vaults(self) -> None:
        """Erases the vaults that were deleted."""
        await _in_turn(
            self._find_vault_to_erase, self._erase_vault_part, vault=lambda found: found[0], pause=ERASE_PAUSE_SECONDS
        )

    async def _find_vault_to_erase(self, after: str) -> tuple[str, str] | None:
        found = await self._database.read_system(find_vault_to_erase, server_scope(), after=after)
        while found is not None and self._clock.now() < self._erase_after.get(found[0], 0):
            found = await self._database.read_system(find_vault_to_erase, server_scope(), after=found[0])
        return found

    async def _erase_vault_part(self, found: tuple[str, str]) -> None:
        (vault_id, operation_id), now = found, self._clock.now()
        try:
            await self._database.write(erase_vault_step, server_scope(vault_id), operation_id=operation_id, now=now)
        except (StorageFull, StoreBusy):
            raise
        except Exception:
            logger.exception("a vault cannot be erased; retrying in an hour", vaultId=vault_id)
            self._erase_after[vault_id] = now + ERASE_RETRY

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read."""
        return {
            "metamorph_erasure_resources": (
                "Deleted sessions, messages, attachments and memories to be erased",
                lambda: self._backlog.resources,
            ),
            "metamorph_erasure_messages": (
                "Messages in deleted sessions to be erased",
                lambda: self._backlog.messages,
            ),
            "metamorph_erasure_oldest_seconds": (
                "Time since the first deletion that is to be erased",
                self._oldest_seconds,
            ),
            "metamorph_change_log_overdue_seconds": (
                "How long ago the oldest change that is to be deleted from a vault's log was due",
                self._overdue_seconds,
            ),
        }

    def _overdue_seconds(self) -> float:
        oldest = self._oldest_change
        return 0.0 if oldest is None else max(0, self._clock.now() - self._change_retention - oldest) / 1e6

    def _oldest_seconds(self) -> float:
        oldest = self._backlog.oldest_delete_time
        return 0.0 if oldest is None else (self._clock.now() - oldest) / 1e6

    async def _count_backlog(self) -> None:
        self._backlog = await self._database.read_system(get_backlog, server_scope())

    async def _index(self) -> None:
        """Indexes what was not indexed when it was stored."""
        await _in_turn(self._find_vault_to_index, self._index_in, vault=str, pause=PAUSE_SECONDS)

    async def _find_vault_to_index(self, after: str) -> str | None:
        return await self._database.read_system(find_vault_to_index, server_scope(), after=after)

    async def _index_in(self, vault_id: str) -> None:
        scope = server_scope(vault_id)
        if pending := await self._database.read(read_pending_words, scope):
            await self._database.write(add_pending_words, scope, pending=pending)
        elif refoldings := await self._database.read(read_earlier_folded, scope):
            await self._database.write(refold_messages, scope, messages=refoldings)
        elif (messages := await self._database.read(read_earlier_messages, scope)) is not None:
            await self._database.write(index_earlier_messages, scope, messages=messages)

    async def _compact(self) -> None:
        """Hides changes that are too old from watchers, and deletes what is too old for an audit."""
        now, after = self._clock.now(), ""
        before, delete_before = now - self._change_retention, now - self._audit_retention
        while oldest := await self._database.read_system(
            list_oldest_changes,
            server_scope(),
            after=after,
            before=before,
            delete_before=delete_before,
            limit=VISITED_VAULTS,
        ):
            for change in oldest:
                if change.due:
                    await self._compact_vault(change, before=before)
                if change.deletable:
                    await self._delete_entries(server_scope(change.vault_id), before=delete_before)
            after = oldest[-1].vault_id
            await asyncio.sleep(PAUSE_SECONDS)
        self._oldest_change = None

    async def _compact_vault(self, oldest: OldestChange, *, before: int) -> None:
        self._oldest_change = min(oldest.change_time, self._oldest_change or oldest.change_time)
        scope = server_scope(oldest.vault_id)
        await _until_done(lambda: self._database.write(compact_changes, scope, before=before, limit=COMPACTED_CHANGES))

    async def _delete_entries(self, scope: Scope, *, before: int) -> None:
        await _until_done(lambda: self._database.write(delete_entries, scope, before=before, limit=COMPACTED_CHANGES))

    async def _maintain(self) -> None:
        """Does what the database has to do itself."""
        await _until_done(self._database.maintain)

    async def _check(self) -> None:
        """Checks the store for damage."""
        await _until_done(self._database.check)

    async def _run(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await work()
            except (StorageFull, StoreBusy) as exc:
                logger.warning("housekeeping waits", error=str(exc))
            except Exception:
                logger.exception("housekeeping failed; retrying in the next round")
            await asyncio.sleep(seconds)


async def _until_done(step: Callable[[], Awaitable[object]]) -> None:
    """Runs steps as long as they return something true, and leaves time to others in between."""
    more = True
    while more:
        more = bool(await step())
        await asyncio.sleep(PAUSE_SECONDS)


async def _in_turn(
    find: Callable[[str], Awaitable[T | None]],
    work: Callable[[T], Awaitable[None]],
    *,
    vault: Callable[[T], str],
    pause: float,
) -> None:
    """Works a step in each vault in turn, until nothing is found. `find` looks in the vaults with higher IDs first."""
    after, found = "", await find("")
    while found is not None or after:
        if found is not None:
            await work(found)
            await asyncio.sleep(pause)
        after = "" if found is None else vault(found)
        found = await find(after)
