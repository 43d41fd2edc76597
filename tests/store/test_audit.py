"""What an audit reads of a vault's log, and how long it is kept."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorphd.chain import Chain, ChainKey, Entry
from metamorphd.errors import RevisionCompacted
from metamorphd.models.audit import AuditEvent, AuditFilter
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.store import audit
from metamorphd.store.audit import list_audit_events, record_event
from metamorphd.store.changes import list_changes
from metamorphd.store.compaction import compact_changes, delete_entries, list_oldest_changes
from metamorphd.store.database import Database

from tests.support.engines import Engine
from tests.support.rows import ACME, EVIL

KEY, EARLIER = ChainKey("0123456789abcdef", b"k" * 32), ChainKey("fedcba9876543210", b"e" * 32)
CHAIN = Chain([KEY, EARLIER])
HOUR = 3_600_000_000


@pytest.fixture
async def chained(engine: Engine, tmp_path: Path) -> AsyncIterator[Database]:
    async with engine.database(tmp_path, chain=CHAIN) as opened:
        yield opened


async def record(database: Database, now: int, scope: Scope = ACME, **fields: Any) -> int:
    given = {"resource": ChangedResource.CALL, "resource_id": "m", "verb": ChangeVerb.REFUSED, "details": None} | fields
    return await database.write(record_event, scope, now=now, **given)


async def events(database: Database, scope: Scope = ACME, **wanted: Any) -> list[AuditEvent]:
    """Returns all that pass a filter, over as many pages as there are."""
    found: list[AuditEvent] = []
    before: int | None = None
    while True:
        page = await database.read(list_audit_events, scope, wanted=AuditFilter(**wanted), before=before, page_size=3)
        found += page.items
        if page.next_after is None:
            return found
        before = int(page.next_after[0])


def mac_of(event: AuditEvent, previous: bytes, chain: Chain = CHAIN) -> bytes:
    detail = '{"version":"3"}' if event.details else ""
    entry = Entry(
        "acme",
        event.revision,
        event.event_time,
        event.actor,
        int(event.operator),
        event.call_id,
        event.resource,
        event.resource_id,
        event.verb,
        detail,
    )
    return chain.mac_of(previous, entry, event.key_id)


async def test_every_entry_is_authenticated_with_all_before(chained: Database) -> None:
    for now in range(5):
        await record(chained, now, details={"version": "3"} if now % 2 else None)
    previous = b""
    for event in reversed(await events(chained)):
        assert event.mac == mac_of(event, previous)
        previous = event.mac


async def test_a_chain_goes_on_under_another_key(engine: Engine, tmp_path: Path) -> None:
    for chain in (Chain([EARLIER]), CHAIN):
        async with engine.database(tmp_path, chain=chain) as database:
            await record(database, 1)
            found = await events(database)
    assert [event.key_id for event in found] == [KEY.key_id, EARLIER.key_id]
    assert found[0].mac == mac_of(found[0], found[1].mac)


async def test_each_vault_has_a_chain_of_its_own(chained: Database) -> None:
    for scope in (ACME, EVIL, ACME):
        await record(chained, 1, scope)
    (other,) = await events(chained, EVIL)
    newest, first = await events(chained)
    assert other.mac != first.mac
    assert newest.mac == mac_of(newest, first.mac)


async def test_without_a_key_entries_have_no_mac(database: Database) -> None:
    await record(database, 1)
    ((key_id, mac),) = [(event.key_id, event.mac) for event in await events(database)]
    assert (key_id, mac) == ("", b"")


async def test_filters_select_by_time_actor_resource_and_verb(chained: Database) -> None:
    await record(chained, 10 * HOUR, resource=ChangedResource.SECRET, resource_id="key", verb=ChangeVerb.READ)
    await record(chained, 20 * HOUR, server_scope("acme"), resource=ChangedResource.SESSION, resource_id="ses_1")
    await record(chained, 30 * HOUR)
    await record(chained, 40 * HOUR, ACME.of_vault("acme"))

    async def found(**wanted: Any) -> list[int]:
        return [event.revision for event in await events(chained, **wanted)]

    assert await found() == [4, 3, 2, 1]
    assert await found(start_time=20 * HOUR) == [4, 3, 2]
    assert await found(end_time=20 * HOUR) == [1]
    assert await found(start_time=15 * HOUR, end_time=35 * HOUR) == [3, 2]
    assert await found(start_time=41 * HOUR) == []
    assert await found(actor="alice") == [3, 1]
    assert await found(actor="") == [2]
    assert await found(resources=frozenset({ChangedResource.SECRET, ChangedResource.SESSION})) == [2, 1]
    assert await found(resource_id="key") == [1]
    assert await found(verbs=frozenset({ChangeVerb.READ})) == [1]
    assert await found(actor="alice", verbs=frozenset({ChangeVerb.REFUSED})) == [3]


async def test_times_may_be_a_little_out_of_order(chained: Database) -> None:
    times = [100 * HOUR + offset for offset in (0, 50, -30, 20, HOUR, HOUR - 40, 2 * HOUR)]
    for now in times:
        await record(chained, now)
    for time in [*times, 99 * HOUR, 103 * HOUR]:
        assert len(await events(chained, start_time=time)) == sum(now >= time for now in times)
        assert len(await events(chained, end_time=time)) == sum(now < time for now in times)


async def test_a_page_looks_at_so_many_entries_and_says_that_there_are_more(
    chained: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "VISITED_ENTRIES", 4)
    await record(chained, 1, verb=ChangeVerb.READ)
    for now in range(2, 12):
        await record(chained, now)
    wanted = AuditFilter(verbs=frozenset({ChangeVerb.READ}))
    page = await chained.read(list_audit_events, ACME, wanted=wanted, before=None, page_size=3)
    assert (page.items, page.next_after) == ((), (8,))
    assert [event.revision for event in await events(chained, verbs=wanted.verbs)] == [1]
    assert len(await events(chained)) == 11


async def test_the_operator_is_marked(chained: Database) -> None:
    await record(chained, 1, ACME.of_vault("acme"))
    (event,) = await events(chained)
    assert (event.actor, event.operator) == ("alice", True)


async def test_watchers_are_not_shown_what_only_the_audit_is_for_and_revisions_go_on(chained: Database) -> None:
    await record(chained, 1)
    await record(chained, 2, resource=ChangedResource.SECRET, resource_id="key", verb=ChangeVerb.READ)
    await record(chained, 3)
    page = await chained.read(list_changes, ACME, after_revision=0, limit=64)
    assert ([change.revision for change in page.changes], page.last_revision, page.newest_revision) == ([2], 3, 3)
    later = page.after(1)
    assert later is not None
    assert [change.revision for change in later.changes] == [2]
    last = page.after(2)
    assert last is not None
    assert (last.changes, last.last_revision) == ((), 3)


async def test_what_watchers_are_not_shown_any_more_is_kept_for_the_audit(chained: Database) -> None:
    for now in (10, 20, 30):
        await record(chained, now)
    await chained.write(compact_changes, ACME, before=25, limit=100)
    with pytest.raises(RevisionCompacted):
        await chained.read(list_changes, ACME, after_revision=0, limit=64)
    assert [event.revision for event in await events(chained)] == [3, 2, 1]


async def test_entries_are_deleted_from_the_oldest_on_and_never_what_watchers_are_shown(chained: Database) -> None:
    for now in range(10, 20):
        await record(chained, now)
    assert not await chained.write(delete_entries, ACME, before=100, limit=3)
    await chained.write(compact_changes, ACME, before=16, limit=100)
    assert [await chained.write(delete_entries, ACME, before=15, limit=3) for _ in range(3)] == [True, False, False]
    assert [event.revision for event in await events(chained)] == [10, 9, 8, 7, 6]
    while await chained.write(delete_entries, ACME, before=100, limit=3):
        pass
    assert [event.revision for event in await events(chained)] == [10, 9, 8, 7]


async def test_logs_are_due_for_watchers_and_for_the_audit(chained: Database) -> None:
    own = server_scope().of_server()
    for scope in (ACME, own):
        for now in (10, 20, 30):
            await record(chained, now, scope)
        await chained.write(compact_changes, scope, before=15, limit=100)
    for delete_before, expected in ((10, False), (11, True)):
        found = await chained.read_system(
            list_oldest_changes, server_scope(), after="", before=15, delete_before=delete_before, limit=10
        )
        assert [(each.vault_id, each.change_time, each.due, each.deletable) for each in found] == [
            (own.vault_id, 20, False, expected),
            ("acme", 20, False, expected),
        ]
    await chained.write(delete_entries, own, before=11, limit=10)
    assert [event.revision for event in await events(chained, own)] == [3, 2]
