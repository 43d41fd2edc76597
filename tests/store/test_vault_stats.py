"""The counters of a vault are those that a count of its rows gives, whatever stores and erases them."""

from typing import Any

from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.page import Page
from metamorphd.models.usage import Usage
from metamorphd.models.vault import Budget, VaultChanges, VaultState
from metamorphd.models.vault_stats import Spending, VaultCounts, VaultStats, VaultSummary
from metamorphd.store.database import Database, Transaction
from metamorphd.store.sessions import delete_session
from metamorphd.store.uploads import create_attachment
from metamorphd.store.vault_states import suspend_vault
from metamorphd.store.vault_stats import get_vault_stats, list_vaults
from metamorphd.store.vaults import create_vault, update_vault, update_vault_limits

from tests.support.rows import ACME, CLOCK, KEY, append, erase_next, finish, new_session, new_turn, scope_of

# 2026-03-02, and a day earlier, and the last day of the month before.
NOW = 1_772_409_600_000_000
DAY = 86_400_000_000
COUNTED = """
SELECT
    (SELECT COUNT(*) FROM sessions WHERE vault_id = :vault_id) AS sessions,
    (SELECT COUNT(*) FROM messages WHERE vault_id = :vault_id) AS messages,
    (SELECT COUNT(*) FROM turns WHERE vault_id = :vault_id) AS turns,
    (SELECT COUNT(*) FROM attachments WHERE vault_id = :vault_id) AS attachments,
    (SELECT COUNT(*) FROM secrets WHERE vault_id = :vault_id) AS secrets,
    (SELECT COUNT(*) FROM memories WHERE vault_id = :vault_id) AS memories
"""


async def recount(tx: Transaction) -> VaultCounts:
    row: Any = await tx.one(COUNTED)
    return VaultCounts(row.sessions, row.messages, row.turns, row.attachments, row.secrets, row.memories)


async def stats_of(database: Database, scope: Scope = ACME, now: int = NOW) -> VaultStats:
    return await database.read(get_vault_stats, scope, now=now, default_limit=0)


async def counts(database: Database) -> VaultCounts:
    """Returns the counters, which are those that a count of the rows gives."""
    found = (await stats_of(database)).counts
    assert found == await database.read(recount, ACME)
    return found


async def test_counters_follow_what_is_stored_and_erased(database: Database) -> None:
    assert await counts(database) == VaultCounts()
    session, other = await new_session(database), await new_session(database)
    for _ in range(3):
        turn = await new_turn(database, session.session_id)
        await append(database, turn, "Hello")
        await finish(database, turn)
    running = await new_turn(database, other.session_id)
    upload = Upload.of("image/png", b"1")
    for _ in range(2):
        await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=CLOCK.now())
    assert await counts(database) == VaultCounts(sessions=2, messages=7, turns=4, attachments=1)
    assert (await stats_of(database)).running_turns == 1
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=CLOCK.now())
    assert (await counts(database)).sessions == 2
    while await erase_next(database):
        await counts(database)
    assert await counts(database) == VaultCounts(sessions=1, messages=1, turns=1, attachments=1)
    await finish(database, running)
    assert (await stats_of(database)).running_turns == 0


async def test_of_a_vault_that_was_never_used_all_is_nothing(database: Database) -> None:
    stats = await stats_of(database)
    assert (stats.counts, stats.revision, stats.summary.create_time) == (VaultCounts(), 0, None)
    assert stats.summary.last_activity_time is None
    assert await listed(database) == []


async def listed(
    database: Database, *, state: VaultState | None = None, page_size: int = 2, max_size: int = 10**6
) -> list[VaultSummary]:
    """Returns all vaults, read in pages."""
    found: list[VaultSummary] = []
    page: Page[VaultSummary] = Page((), ("",))
    while page.next_after is not None:
        page = await database.read_system(
            list_vaults,
            server_scope(),
            state=state,
            now=NOW,
            after=page.next_after if found else None,
            page_size=page_size,
            max_size=max_size,
        )
        assert len(page.items) <= page_size
        found += page.items
    return found


async def test_vaults_are_listed_by_id_in_pages_with_what_they_store_and_spend(database: Database) -> None:
    for number, name in enumerate(("z", "acme", "a:c", "a.b", "a", "B"), 1):
        await database.write(create_vault, scope_of(name), hash_key=KEY, now=number)
    await database.write(update_vault_limits, scope_of("limited"), budget=Budget(tokens_per_day=1), now=7)
    await database.write(suspend_vault, scope_of("never").of_vault("never"), reason="abuse", now=8)
    named = VaultChanges(display_name="Acme")
    await database.write(update_vault, ACME, changes=named, etag="", hash_key=KEY, now=99)
    for now, cost in ((NOW - 2 * DAY, 11), (NOW - DAY, 7), (NOW, 5)):
        turn = await new_turn(database, (await new_session(database)).session_id)
        await finish(database, turn, usage=Usage(input_tokens=cost, output_tokens=1, cost_usd_nanos=cost), now=now)
    for page_size, max_size in ((1, 10**6), (2, 10**6), (100, 10**6), (100, 1)):
        vaults = await listed(database, page_size=page_size, max_size=max_size)
        assert [each.status.vault_id for each in vaults] == ["B", "a", "a.b", "a:c", "acme", "limited", "never", "z"]
    acme, limited, never = vaults[4:7]
    assert (acme.display_name, acme.create_time, acme.last_activity_time) == ("Acme", 2, NOW)
    assert (acme.today, acme.this_month) == (Spending(6, 5), Spending(14, 12))
    assert acme.stored_bytes == 3 * len('{}[{"type":"text","text":"Hello"}]')
    assert (limited.create_time, limited.last_activity_time, limited.status.state) == (None, 7, VaultState.ACTIVE)
    assert (never.status.state, never.status.reason, never.create_time) == (VaultState.SUSPENDED, "abuse", None)
    assert [each.status.vault_id for each in await listed(database, state=VaultState.SUSPENDED)] == ["never"]
    assert await listed(database, state=VaultState.DELETED) == []
    assert (await stats_of(database)).summary == acme
