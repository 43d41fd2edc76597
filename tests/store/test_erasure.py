"""Deleted sessions: hidden at once, and erased in steps."""

from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from metamorphd.errors import AttachmentNotFound, MessageNotFound, SessionNotFound, TurnNotFound
from metamorphd.models.attachment import Upload
from metamorphd.models.content import DocumentBlock, TextBlock
from metamorphd.models.usage import SubjectKind
from metamorphd.store.attachments import get_attachment
from metamorphd.store.database import Database
from metamorphd.store.erasure import STEP_EVENTS, STEP_MESSAGES
from metamorphd.store.messages import get_message, list_messages
from metamorphd.store.search.query import search_messages
from metamorphd.store.session_lists import list_sessions
from metamorphd.store.sessions import delete_session, get_session
from metamorphd.store.turns.read import get_turn, list_events, list_turns
from metamorphd.store.uploads import create_attachment
from metamorphd.store.usage_lists import list_usage

from tests.support.rows import (
    ACME,
    EVIL,
    KEY,
    append,
    erase,
    erase_next,
    finish,
    new_session,
    new_turn,
    row_counts,
    stored_message,
)

CHILDREN = (
    "sessions",
    "erasures",
    "session_metadata",
    "messages",
    "message_links",
    "turns",
    "events",
    "attachments",
    "attachment_chunks",
    "attachment_uses",
    "postings",
    "indexed_messages",
)


async def filled(database: Database, messages: int = 3) -> dict[str, str]:
    """Stores a session with something of everything in it, and deletes it. Returns the IDs."""
    session = await new_session(database, metadata={"env": "prod"})
    upload = Upload.of("text/plain", b"attached")
    await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=1)
    block = DocumentBlock(upload.attachment_id, "text/plain", len(upload.data), upload.sha256)
    message = await stored_message(database, session.session_id, content=(TextBlock("findable"), block))
    for number in range(messages):
        turn = await new_turn(database, session.session_id, f"findable {number}")
        await append(database, turn, "a", "b")
        await finish(database, turn)
    running = await new_turn(database, session.session_id)
    await append(database, running, "c")
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    return {
        "session_id": session.session_id,
        "message_id": message.message_id,
        "turn_id": turn.turn_id,
        "running": running.turn_id,
        "attachment_id": upload.attachment_id,
    }


async def hidden(database: Database, ids: dict[str, str]) -> None:
    """Asserts that nothing of a deleted session can be read, and that nothing can be added to it."""

    async def refused(error: type[Exception], operation: Any, **arguments: Any) -> None:
        with pytest.raises(error):
            await database.read(operation, ACME, **arguments)

    session = {"session_id": ids["session_id"]}
    page: dict[str, Any] = {"after": None, "page_size": 10, "max_size": 10**6}
    listing = {"leaf_message_id": None, "all_branches": True, "newest_first": True}
    await refused(SessionNotFound, get_session, **session)
    await refused(SessionNotFound, list_messages, **session, **page, **listing)
    await refused(SessionNotFound, list_turns, **session, status=None, **page)
    await refused(MessageNotFound, get_message, message_id=ids["message_id"])
    await refused(TurnNotFound, get_turn, turn_id=ids["turn_id"])
    follow = {"after_sequence": 0, "limit": 10, "max_characters": 100}
    await refused(TurnNotFound, list_events, turn_id=ids["running"], **follow)
    await refused(AttachmentNotFound, get_attachment, attachment_id=ids["attachment_id"])
    found = await database.read(
        search_messages, ACME, phrases=[("findable",)], session_id=None, after=None, page_size=10
    )
    assert found.items == ()
    for filters in ({}, {"metadata": {"env": "prod"}}, {"creator": "alice"}, {"archived": False}):
        query: dict[str, Any] = {"archived": None, "creator": None, "metadata": {}} | filters
        assert (await database.read(list_sessions, ACME, **page, **query)).items == ()
    with pytest.raises(SessionNotFound):
        await new_turn(database, ids["session_id"])
    with pytest.raises(SessionNotFound):
        await database.write(delete_session, ACME, **session, etag="", now=10)


async def test_a_deleted_session_is_hidden_at_once_and_while_it_is_erased(database: Database) -> None:
    ids = await filled(database)
    await hidden(database, ids)
    for _ in range(4):
        await erase_next(database)
        await hidden(database, ids)


async def test_erasing_leaves_nothing_but_usage(database: Database, tmp_path: Any) -> None:
    other = await new_session(database, EVIL)
    ids = await filled(database)
    await erase(database)
    assert row_counts(tmp_path, *CHILDREN) == (1, *(0 for _ in CHILDREN[1:]))
    assert (await database.read(get_session, EVIL, session_id=other.session_id)).session_id == other.session_id
    _, total = await database.read(
        list_usage,
        ACME,
        start_day=date(2000, 1, 1),
        end_day=date(2100, 1, 1),
        model=None,
        kind=SubjectKind.SESSION,
        subject=ids["session_id"],
        by_day=False,
        by_model=False,
        by_subject=False,
        after=None,
        page_size=10,
    )
    assert total.turns == 3


async def test_a_step_erases_a_few_rows(database: Database, tmp_path: Any) -> None:
    await filled(database, messages=10)
    before = row_counts(tmp_path, "messages", "events")
    await erase_next(database)
    after = row_counts(tmp_path, "messages", "events")
    assert before[0] - after[0] == STEP_MESSAGES
    assert before[1] == after[1]


async def test_the_events_of_a_long_turn_are_erased_in_steps(database: Database, tmp_path: Any) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await append(database, turn, *("x" for _ in range(2 * STEP_EVENTS + 1)))
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    counts = []
    while await erase_next(database):
        counts.append(row_counts(tmp_path, "events")[0])
    assert [before - after for before, after in pairwise(counts)][:3] == [
        STEP_EVENTS,
        STEP_EVENTS,
        1,
    ]


async def test_a_turn_of_a_deleted_session_takes_no_more_events(database: Database) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    with pytest.raises(TurnNotFound):
        await append(database, turn, "late")
    with pytest.raises(TurnNotFound):
        await finish(database, turn)
