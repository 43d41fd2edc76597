"""The log of a vault: what appends to it, its revisions, and who learns of them."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from metamorphd.errors import RevisionAhead, RevisionCompacted, SessionNotFound
from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import Change, ChangedResource, Changes, ChangeVerb
from metamorphd.models.content import DocumentBlock
from metamorphd.models.session import SessionChanges
from metamorphd.models.turn import TurnStatus
from metamorphd.models.usage import Usage
from metamorphd.models.vault import Budget, VaultChanges
from metamorphd.store.changes import append_change, get_revision, list_changes, revised
from metamorphd.store.compaction import compact_changes, list_oldest_changes
from metamorphd.store.database import Database, Transaction
from metamorphd.store.erasure_ledger import get_life
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.messages import delete_message
from metamorphd.store.session_titles import set_title
from metamorphd.store.sessions import create_session, delete_session, update_session
from metamorphd.store.uploads import create_attachment, stage_upload
from metamorphd.store.vaults import create_vault, update_vault, update_vault_limits

from tests.support.rows import (
    ACME,
    CLOCK,
    EVIL,
    KEY,
    append,
    erase,
    finish,
    new_message,
    new_session,
    new_turn,
    scope_of,
    stored_message,
)

MANY = 10_000


async def changes(database: Database, after: int = 0, *, scope: Scope = ACME, limit: int = MANY) -> Changes:
    return await database.read(list_changes, scope, after_revision=after, limit=limit)


async def log(database: Database, after: int = 0, *, scope: Scope = ACME) -> list[tuple[str, str, str]]:
    """Returns what has changed after a revision, as (resource, id, verb)."""
    found = (await changes(database, after, scope=scope)).changes
    return [(change.resource.value, change.resource_id, change.verb.value) for change in found]


async def revision(database: Database, scope: Scope = ACME) -> int:
    return await database.read(get_revision, scope)


async def added(tx: Transaction, *, count: int = 1, now: int = 1) -> None:
    for number in range(count):
        await append_change(
            tx, resource=ChangedResource.SESSION, resource_id=f"ses_{number}", verb=ChangeVerb.UPDATED, now=now
        )


async def test_a_change_says_what_who_and_when_and_never_content(database: Database) -> None:
    session = await new_session(database, title="secret", now=1_700_000_000_000_001)
    assert replace(await changes(database), mark="") == Changes(
        0,
        (
            Change(1, 1_700_000_000_000_001, "alice", "call-1", ChangedResource.VAULT, "acme", ChangeVerb.CREATED),
            Change(
                2,
                1_700_000_000_000_001,
                "alice",
                "call-1",
                ChangedResource.SESSION,
                session.session_id,
                ChangeVerb.CREATED,
            ),
        ),
        last_revision=2,
        newest_revision=2,
        mark="",
    )


async def test_a_session_is_created_updated_titled_and_deleted(database: Database) -> None:
    session_id = (await new_session(database)).session_id
    turn = await new_turn(database, session_id)
    await finish(database, turn)
    changed: dict[str, Any] = {"session_id": session_id, "etag": "", "now": 1}
    named: dict[str, Any] = {"turn": turn, "life": await database.read(get_life, ACME), "usage": Usage(), "now": 1}
    start = await revision(database)
    await database.write(set_title, ACME, title="One", model="m", **named)
    # It has one now.
    await database.write(set_title, ACME, title="Two", model="m", **named)
    await database.write(update_session, ACME, changes=SessionChanges(title="Three"), **changed)
    await database.write(delete_session, ACME, **changed)
    verbs = ["updated", "updated", "deleted"]
    assert await log(database, start) == [("session", session_id, verb) for verb in verbs]
    await erase(database)
    assert await revision(database) == start + 3


async def test_a_turn_starts_and_ends_with_its_status_and_deltas_are_no_changes(database: Database) -> None:
    session = await new_session(database)
    for status in (TurnStatus.COMPLETED, TurnStatus.CANCELLED, TurnStatus.INTERRUPTED, TurnStatus.FAILED):
        start = await revision(database)
        turn = await new_turn(database, session.session_id)
        await append(database, turn, "Hel", "lo")
        finished = await finish(database, turn, status=status)
        assert finished.message is not None
        assert await log(database, start) == [
            ("message", turn.user_message_id, "created"),
            ("turn", turn.turn_id, "started"),
            ("message", finished.message.message_id, "created"),
            ("turn", turn.turn_id, status.lower()),
        ]


async def test_a_message_is_deleted_once_with_the_attachments_that_only_it_holds(database: Database) -> None:
    upload = Upload.of("text/plain", b"attached")
    await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=1)
    session = await new_session(database)
    block = DocumentBlock(upload.attachment_id, "text/plain", len(upload.data), upload.sha256)
    message = await stored_message(database, session.session_id, content=(block,))
    start = await revision(database)
    for _ in range(2):
        await database.write(delete_message, ACME, message_id=message.message_id, now=2)
    await erase(database)
    assert await log(database, start) == [
        ("attachment", upload.attachment_id, "deleted"),
        ("message", message.message_id, "deleted"),
    ]


async def test_an_attachment_is_created_when_it_can_be_read_and_updated_by_another_upload(database: Database) -> None:
    upload = Upload.of("text/plain", bytes(2_500_000))
    stored: dict[str, Any] = {"upload": upload, "hash_key": KEY, "now": CLOCK.now()}
    while await database.write(stage_upload, ACME, **stored):
        pass
    assert await log(database) == [("vault", "acme", "created")]
    for _ in range(2):
        await database.write(create_attachment, ACME, **stored)
    expected = [("attachment", upload.attachment_id, verb) for verb in ("created", "updated")]
    assert await log(database, 1) == expected


async def test_attachments_of_a_deleted_session_are_deleted_when_they_are_erased(database: Database) -> None:
    session = await new_session(database)
    upload = Upload.of("text/plain", b"attached")
    await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=1)
    block = DocumentBlock(upload.attachment_id, "text/plain", len(upload.data), upload.sha256)
    await stored_message(database, session.session_id, content=(block,))
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=1)
    start = await revision(database)
    await erase(database)
    assert await log(database, start) == [("attachment", upload.attachment_id, "deleted")]


async def test_the_vault_and_its_limits_change_and_the_operator_stays_unnamed(database: Database) -> None:
    await database.write(update_vault, ACME, changes=VaultChanges(display_name="Acme"), etag="", hash_key=KEY, now=1)
    operator = replace(ACME, actor=replace(ACME.actor, vault_id="operators", user_id="root")).of_vault("acme")
    await database.write(update_vault_limits, operator, budget=Budget(), now=1)
    found = (await changes(database)).changes
    assert [(change.resource.value, change.verb.value, change.actor) for change in found] == [
        ("vault", "created", "alice"),
        ("vault", "updated", "alice"),
        ("vault_limits", "updated", ""),
    ]


async def test_a_repeated_request_appends_nothing_and_returns_the_revision(database: Database) -> None:
    request = IdempotencyKey("CreateSession", "11111111-1111-1111-1111-111111111111", b"body")
    fields: dict[str, Any] = {
        "title": "",
        "model": "",
        "system_prompt": "",
        "metadata": {},
        "labels": {},
        "archived": False,
        "request": request,
        "hash_key": KEY,
        "now": 1,
    }
    first, made = await database.write(revised(create_session), ACME, session_id="ses_1", **fields)
    again, then = await database.write(revised(create_session), ACME, session_id="ses_2", **fields)
    assert (first, made) == (again, then)
    assert made == await revision(database) == 2


async def test_an_operation_that_fails_uses_no_revision_and_is_not_reported(database: Database) -> None:
    reported: list[tuple[str, int]] = []
    database.listen(lambda *report: reported.append(report))
    await new_session(database)

    async def failing(tx: Transaction) -> None:
        await added(tx)
        raise SessionNotFound(session_id="x")

    # Together, so that they share a transaction with one that succeeds.
    outcomes = await asyncio.gather(
        database.write(failing, ACME),
        database.write(added, ACME),
        database.write(failing, ACME),
        return_exceptions=True,
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["SessionNotFound", "NoneType", "SessionNotFound"]
    assert await revision(database) == 3
    assert reported == [("acme", 2), ("acme", 3)]


async def test_a_revision_is_reported_when_it_can_be_read_also_if_its_caller_is_gone(database: Database) -> None:
    readable: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    reported = asyncio.Event()

    def report(vault_id: str, newest: int) -> None:
        async def look() -> None:
            readable.append((newest, await database.read(get_revision, scope_of(vault_id))))
            reported.set()

        tasks.append(loop.create_task(look()))

    tasks: list[asyncio.Task[None]] = []
    database.listen(report)
    writing = asyncio.create_task(database.write(added, ACME, count=3))
    await asyncio.sleep(0)
    writing.cancel()
    async with asyncio.timeout(10):
        await reported.wait()
    assert readable == [(3, 3)]


async def test_an_operation_that_appends_nothing_is_not_reported(database: Database) -> None:
    reported: list[tuple[str, int]] = []
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    database.listen(lambda *report: reported.append(report))
    await append(database, turn, "Hel", "lo")
    assert reported == []


async def test_each_vault_has_revisions_of_its_own(database: Database) -> None:
    reported: list[tuple[str, int]] = []
    database.listen(lambda *report: reported.append(report))
    await database.write(added, ACME, count=2)
    await database.write(added, EVIL)
    assert (await revision(database), await revision(database, EVIL)) == (2, 1)
    assert [change.revision for change in (await changes(database, scope=EVIL)).changes] == [1]
    assert reported == [("acme", 2), ("evil", 1)]


async def test_many_writers_share_one_sequence_without_gaps(database: Database) -> None:
    made = await asyncio.gather(*(database.write(revised(added), ACME) for _ in range(300)))
    assert sorted(found for _, found in made) == list(range(1, 301))
    assert [change.revision for change in (await changes(database)).changes] == list(range(1, 301))


async def test_a_page_ends_at_its_limit_and_the_end_is_an_empty_one(database: Database) -> None:
    await database.write(added, ACME, count=7)
    page = await changes(database, 2, limit=3)
    assert ([change.revision for change in page.changes], page.last_revision, page.newest_revision) == ([3, 4, 5], 5, 7)
    assert await changes(database, 7) == Changes(7, (), 7, 7, "")


async def test_a_revision_that_the_vault_does_not_have_is_refused(database: Database) -> None:
    with pytest.raises(RevisionAhead) as refusal:
        await changes(database, 1)
    assert refusal.value.metadata == {"newest_revision": "0"}


async def test_compaction_deletes_from_the_oldest_on_and_the_newest_stays(database: Database) -> None:
    for now in (10, 20, 30):
        await database.write(added, ACME, count=2, now=now)
    assert not await database.write(compact_changes, ACME, before=20, limit=100)
    with pytest.raises(RevisionCompacted) as refusal:
        await changes(database, 1)
    assert refusal.value.metadata == {"oldest_revision": "3"}
    assert [change.revision for change in (await changes(database, 2)).changes] == [3, 4, 5, 6]
    steps = 1
    while await database.write(compact_changes, ACME, before=1000, limit=2):
        steps += 1
    assert steps == 2
    assert [change.revision for change in (await changes(database, 5)).changes] == [6]
    _, then = await database.write(revised(added), ACME)
    assert then == 7


async def test_compaction_leaves_no_gap_where_times_are_out_of_order(database: Database) -> None:
    for now in (10, 50, 10, 60):
        await database.write(added, ACME, now=now)
    await database.write(compact_changes, ACME, before=50, limit=100)
    assert [change.revision for change in (await changes(database, 1)).changes] == [2, 3, 4]


async def test_what_is_due_is_found_by_vault_and_the_newest_change_never_is(database: Database) -> None:
    for vault in ("a", "b", "c"):
        await database.write(added, scope_of(vault), now=10)
    await database.write(added, scope_of("b"), now=20)
    find = {"before": 15, "delete_before": 0, "limit": 2}
    first = await database.read_system(list_oldest_changes, server_scope(), after="", **find)
    assert [(each.vault_id, each.change_time, each.due) for each in first] == [("a", 10, False), ("b", 10, True)]
    second = await database.read_system(list_oldest_changes, server_scope(), after="b", **find)
    assert [(each.vault_id, each.due) for each in second] == [("c", False)]
    assert await database.read_system(list_oldest_changes, server_scope(), after="c", **find) == []


async def test_a_message_without_a_session_appends_nothing(database: Database) -> None:
    await new_session(database)
    start = await revision(database)
    with pytest.raises(SessionNotFound):
        await stored_message(database, new_message("nowhere").session_id)
    assert await revision(database) == start


async def test_the_mark_of_the_same_change_is_another_one_in_each_vault(database: Database) -> None:
    marks = set()
    for number, vault_id in enumerate(("one", "two")):
        scope = scope_of(vault_id)
        await database.write(create_vault, scope, hash_key=bytes([number]) * 32, now=1)
        await database.write(added, scope, count=1, now=1)
        marks.add((await changes(database, 1, scope=scope)).mark)
    assert len(marks) == 2
