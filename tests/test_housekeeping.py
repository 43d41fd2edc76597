"""Expired data is deleted in small steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metamorphd import housekeeping
from metamorphd.clock import Clock
from metamorphd.errors import RevisionCompacted, StorageFull
from metamorphd.housekeeping import Housekeeping
from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.content import DocumentBlock
from metamorphd.models.turn import TurnStatus
from metamorphd.store.attachments import sendable_attachments
from metamorphd.store.changes import get_revision, list_changes
from metamorphd.store.compaction import compact_changes
from metamorphd.store.database import Database, Transaction
from metamorphd.store.idempotency import BEGINNING, IdempotencyKey, claim_request, prune_requests
from metamorphd.store.sessions import delete_session
from metamorphd.store.turns.events import prune_events
from metamorphd.store.turns.read import list_events
from metamorphd.store.uploads import create_attachment

from tests.support.rows import ACME, KEY, append, finish, new_session, new_turn, row_counts, scope_of, stored_message

DAY = 86_400_000_000


class Later(Clock):
    """A clock that can be set forward."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


async def sequences(database: Database, turn_id: str, after: int = 0) -> list[int]:
    _, events = await database.read(
        list_events, ACME, turn_id=turn_id, after_sequence=after, limit=10_000, max_characters=10**9
    )
    return [event.sequence for event in events]


async def test_events_are_pruned_a_day_after_their_turn_except_the_last(database: Database) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24, request_retention_days=7)
    session = await new_session(database)
    old = await new_turn(database, session.session_id)
    await append(database, old, *"abc")
    finished = await finish(database, old)
    running = await new_turn(database, session.session_id)
    await append(database, running, *"xyz")
    clock.ahead = DAY - 60_000_000
    await keeping.sweep()
    assert await sequences(database, old.turn_id) == [1, 2, 3, 4, 5]
    clock.ahead = DAY + 60_000_000
    await keeping.sweep()
    assert await sequences(database, old.turn_id) == [5]
    assert await sequences(database, old.turn_id, after=2) == [5]
    assert await sequences(database, old.turn_id, after=5) == []
    turn, (event,) = await database.read(
        list_events, ACME, turn_id=old.turn_id, after_sequence=0, limit=10, max_characters=100
    )
    assert (turn.status, event) == (TurnStatus.COMPLETED, finished)
    assert await sequences(database, running.turn_id) == [1, 2, 3, 4]


async def test_a_turn_is_pruned_in_steps_and_counts_as_pruned_from_the_first(database: Database) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await append(database, turn, *("x" for _ in range(25)))
    await finish(database, turn)
    before = Clock().now() + DAY
    steps = 0
    while await database.write_system(prune_events, server_scope(), before=before, limit=10):
        steps += 1
        assert await sequences(database, turn.turn_id) == [27]
    # One step to mark it, then ten, ten and the remaining five events.
    assert steps == 4


async def test_an_unused_attachment_is_deleted_a_day_after_its_upload(database: Database) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24, request_retention_days=7)
    uploads = [Upload.of("text/plain", b"%d" % number) for number in range(5)]
    for upload in uploads:
        await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=clock.now())
    used = DocumentBlock(uploads[0].attachment_id, "text/plain", 1, uploads[0].sha256)
    session = await new_session(database)
    await stored_message(database, session.session_id, content=(used,))
    clock.ahead = DAY - 60_000_000
    await keeping.sweep()
    assert await there(database, uploads) == set("01234")
    await database.write(create_attachment, ACME, upload=uploads[1], hash_key=KEY, now=clock.now())
    clock.ahead = DAY + 60_000_000
    await keeping.sweep()
    assert await there(database, uploads) == {"0", "1"}


async def there(database: Database, uploads: list[Upload]) -> set[str]:
    ids = [upload.attachment_id for upload in uploads]
    complete = await database.read(sendable_attachments, ACME, attachment_ids=ids)
    return {bytes(upload.data).decode() for upload in uploads if upload.attachment_id in complete}


async def test_a_request_id_is_forgotten_after_a_week_unless_its_turn_is_still_there(database: Database) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24, request_retention_days=7)
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    key = IdempotencyKey("CreateSession", "11111111-1111-1111-1111-111111111111", b"body")

    async def claimed(resource_id: str) -> str:
        return await database.write(claim_request, ACME, request=key, resource_id=resource_id, now=clock.now())

    async def of_turn(resource_id: str) -> str:
        sent = replace(key, rpc="SendMessage")
        return await database.write(claim_request, ACME, request=sent, resource_id=resource_id, now=clock.now())

    assert (await claimed("first"), await of_turn(turn.turn_id)) == ("first", turn.turn_id)
    clock.ahead = 7 * DAY - 60_000_000
    await keeping.sweep()
    assert await claimed("second") == "first"
    clock.ahead = 9 * DAY
    await keeping.sweep()
    assert await claimed("second") == "second"
    assert await of_turn("other") == turn.turn_id


async def test_requests_are_visited_in_steps(database: Database) -> None:
    await new_session(database)
    for number in range(25):
        key = IdempotencyKey("CreateSession", f"{number:036}", b"")
        await database.write(claim_request, ACME, request=key, resource_id="none", now=number)
    after: tuple[str, str, str] | None = BEGINNING
    ends = []
    while after is not None:
        after = await database.write_system(prune_requests, server_scope(), after=after, before=20, limit=10)
        ends.append(after and int(after[2]))
    assert ends == [9, 19, None]
    for number in (19, 20):
        key = IdempotencyKey("CreateSession", f"{number:036}", b"")
        made = await database.write(claim_request, ACME, request=key, resource_id="new", now=0)
        assert made == ("new" if number == 19 else "none")


async def set_content(tx: Transaction, *, session_id: str, content: str) -> None:
    await tx.run(
        "UPDATE messages SET content = :content WHERE vault_id = :vault_id AND session_id = :session_id",
        session_id=session_id,
        content=content,
    )


async def test_what_cannot_be_erased_lets_others_pass_and_is_tried_again(database: Database, tmp_path: Path) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24, request_retention_days=7)
    sessions = [(await new_session(database)).session_id for _ in range(3)]
    for session_id in sessions:
        await stored_message(database, session_id, "word")
        await database.write(delete_session, ACME, session_id=session_id, etag="", now=clock.now())
    await database.write(set_content, ACME, session_id=sessions[0], content="damaged")
    await keeping.sweep()
    assert row_counts(tmp_path, "sessions", "messages", "erasures") == (1, 1, 1)
    gauges = {name: read() for name, (_, read) in keeping.gauges.items()}
    clock.ahead += 5_000_000
    assert gauges["metamorph_erasure_resources"] == gauges["metamorph_erasure_messages"] == 1
    assert 0 < gauges["metamorph_erasure_oldest_seconds"] < keeping.gauges["metamorph_erasure_oldest_seconds"][1]() - 4
    await database.write(set_content, ACME, session_id=sessions[0], content="[]")
    await keeping.sweep()
    assert row_counts(tmp_path, "erasures") == (1,)
    clock.ahead += 3_600_000_000
    await keeping.sweep()
    assert row_counts(tmp_path, "sessions", "messages", "erasures") == (0, 0, 0)
    assert {read() for _, read in keeping.gauges.values()} == {0}


async def test_changes_leave_the_logs_after_their_days_and_the_newest_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "VISITED_VAULTS", 2)
    monkeypatch.setattr(housekeeping, "COMPACTED_CHANGES", 3)
    clock = Later()
    keeping = Housekeeping(
        database=database,
        clock=clock,
        event_retention_hours=24,
        request_retention_days=7,
        change_retention_days=2,
    )
    vaults = [scope_of(f"vault-{number}") for number in range(5)]
    for scope in vaults:
        for _ in range(9):
            await new_session(database, scope)
    clock.ahead = 2 * DAY - 60_000_000
    await keeping.sweep()
    assert {await kept(database, scope) for scope in vaults} == {10}
    for scope in vaults[:3]:
        await new_session(database, scope, now=clock.now())
    clock.ahead = 2 * DAY + 60_000_000
    await keeping.sweep()
    assert [await kept(database, scope) for scope in vaults] == [1] * 5
    assert [await database.read(get_revision, scope) for scope in vaults] == [11, 11, 11, 10, 10]


async def kept(database: Database, scope: Scope) -> int:
    newest = await database.read(get_revision, scope)
    oldest = 0
    while True:
        try:
            changes = await database.read(list_changes, scope, after_revision=oldest, limit=100)
        except RevisionCompacted as refusal:
            oldest = int(refusal.metadata["oldest_revision"]) - 1
        else:
            assert changes.last_revision == newest
            return len(changes.changes)


async def test_a_metric_says_how_late_changes_leave_the_logs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24, request_retention_days=7)
    _, late = keeping.gauges["metamorph_change_log_overdue_seconds"]
    for _ in range(2):
        await new_session(database)
    clock.ahead = 8 * DAY
    write = database.write

    async def full(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation is compact_changes:
            raise StorageFull(retry_delay=1.0)
        return await write(operation, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", full)
        with pytest.raises(StorageFull):
            await keeping.sweep()
    assert DAY / 1e6 - 1 < late() < DAY / 1e6 + 60
    await keeping.sweep()
    assert late() == 0
