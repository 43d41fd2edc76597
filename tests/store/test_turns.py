"""Turns, messages and events in the store."""

from typing import Any

import pytest
from metamorphd.errors import BranchBusy, MessageNotFound, SequenceAhead, SessionNotFound, TurnNotFound
from metamorphd.models.caller import server_scope
from metamorphd.models.content import CompactionBlock, TextBlock, text_of
from metamorphd.models.generation import Tool
from metamorphd.models.message import Message
from metamorphd.models.page import Page
from metamorphd.models.turn import Compaction, StopReason, TextDelta, TurnError, TurnStatus, UsageUpdate
from metamorphd.models.usage import Usage
from metamorphd.models.vault import VaultChanges
from metamorphd.store.branches import get_branch
from metamorphd.store.database import Database
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.messages import get_message, list_messages
from metamorphd.store.sessions import delete_session, get_session
from metamorphd.store.turns import read
from metamorphd.store.turns.events import append_events
from metamorphd.store.turns.leases import END_OF_TIME, list_orphaned_turns
from metamorphd.store.turns.left import get_left_usage
from metamorphd.store.turns.prompt import get_prompt
from metamorphd.store.turns.read import get_turn, list_events, list_turns
from metamorphd.store.vaults import update_vault

from tests.support.rows import ACME, EVIL, KEY, TERMS, append, finish, new_message, new_session, new_turn

TOOL = Tool("weather", "", "{}")


async def events(
    database: Database, turn_id: str, after: int = 0, limit: int = 100, max_characters: int = 1000
) -> list[int]:
    page = {"limit": limit, "max_characters": max_characters}
    _, listed = await database.read(list_events, ACME, turn_id=turn_id, after_sequence=after, **page)
    return [event.sequence for event in listed]


async def orphans(database: Database, owner: str = "srv_other", now: int = END_OF_TIME) -> list[tuple[str, str]]:
    return await database.read_system(list_orphaned_turns, server_scope(), owner=owner, now=now)


async def test_a_turn_stores_its_message_and_runs(database: Database) -> None:
    session = await new_session(database, model="claude-opus-5-5")
    turn = await new_turn(database, session.session_id)
    after = await database.read(get_session, ACME, session_id=session.session_id)
    assert (turn.status, turn.last_sequence, turn.model) == (TurnStatus.RUNNING, 1, "claude-opus-5-5")
    assert after.running_turn_ids == (turn.turn_id,)
    assert (after.message_count, after.current_leaf_message_id) == (1, turn.user_message_id)
    assert await orphans(database) == [("acme", turn.turn_id)]


async def test_the_model_comes_from_the_call_the_session_the_vault_or_the_default(
    database: Database,
) -> None:
    async def model(session_id: str, **fields: Any) -> str:
        turn = await new_turn(database, session_id, **fields)
        await finish(database, turn)
        return turn.model

    plain = (await new_session(database)).session_id
    own = (await new_session(database, model="claude-opus-5-5")).session_id
    assert await model(plain) == "claude-sonnet-5-5"
    changes = VaultChanges(default_model="claude-haiku-5-5")
    await database.write(update_vault, ACME, changes=changes, etag="", hash_key=KEY, now=1)
    assert await model(plain) == "claude-haiku-5-5"
    assert await model(own) == "claude-opus-5-5"
    assert await model(own, model="claude-fable-5-2") == "claude-fable-5-2"


async def test_the_prompt_is_the_branch_and_the_system_prompt_of_session_or_vault(database: Database) -> None:
    session = await new_session(database)
    first = await new_turn(database, session.session_id, "one")
    await append(database, first, "reply")
    await finish(database, first)
    aside = await new_turn(database, session.session_id, "aside", parent="")
    await finish(database, aside)
    second = await new_turn(database, session.session_id, "two", parent=first.user_message_id)
    changes = VaultChanges(system_prompt="of vault")
    await database.write(update_vault, ACME, changes=changes, etag="", hash_key=KEY, now=1)
    prompt = await database.read(get_prompt, ACME, turn=second, terms=TERMS)
    assert prompt.system_prompt == "of vault"
    assert [text_of(message.content) for message in prompt.branch.messages or ()] == ["one", "two"]


async def test_a_finished_turn_stores_its_text_as_the_reply(database: Database) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await append(database, turn, "Hel", "lo")
    last = [TextDelta(turn.turn_id, 4, 1, "again")]
    usage = Usage(1, 2, 3, 4)
    finished = await finish(database, turn, events=last, usage=usage, stop_reason=StopReason.END_TURN)
    assert finished.sequence == 5
    reply = finished.message
    assert reply is not None
    assert reply.content == tuple(map(TextBlock, ["Hello", "again"]))
    assert reply.parent_message_id == turn.user_message_id
    assert await database.read(get_message, ACME, message_id=reply.message_id) == reply
    ended = await database.read(get_turn, ACME, turn_id=turn.turn_id)
    assert (ended.status, ended.reply_message_id, ended.usage) == (TurnStatus.COMPLETED, reply.message_id, usage)
    assert ended.last_sequence == 5
    assert (await database.read(get_session, ACME, session_id=session.session_id)).running_turn_ids == ()


async def test_a_turn_that_fails_without_text_stores_no_reply_and_the_conversation_goes_on(
    database: Database,
) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    error = TurnError("UPSTREAM_OVERLOADED", "busy", {"k": "v"}, retry_delay=1.5)
    finished = await finish(database, turn, status=TurnStatus.FAILED, error=error)
    assert (finished.message, finished.error, finished.sequence) == (None, error, 2)
    assert (await database.read(get_turn, ACME, turn_id=turn.turn_id)).error == error
    following = await new_turn(database, session.session_id)
    message = await database.read(get_message, ACME, message_id=following.user_message_id)
    assert message.parent_message_id == turn.user_message_id


@pytest.mark.parametrize(("blamed", "kept"), [("options.tools", False), ("options.thinking", True)])
async def test_tools_stay_in_force_unless_the_provider_has_rejected_them(
    database: Database, blamed: str, kept: bool
) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id, tools=(TOOL,))
    await finish(database, turn, status=TurnStatus.FAILED, error=TurnError("R", "no", {"field": blamed}))
    following = await new_turn(database, session.session_id)
    assert following.options.tools == ((TOOL,) if kept else ())


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("summarized", [True, False])
async def test_what_a_summary_has_read_was_not_reported(database: Database, reported: bool, summarized: bool) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    happened: list[Compaction | UsageUpdate] = []
    if summarized:
        happened.append(Compaction(turn.turn_id, 2, 0, CompactionBlock("They said one.", "")))
    if reported:
        happened.append(UsageUpdate(turn.turn_id, 2 + len(happened), Usage(11, 1, 0, 0)))
    await database.write(append_events, ACME, events=happened)
    left = await database.read(get_left_usage, ACME, turn=turn, terms=TERMS)
    assert left.unreported_reads == (not reported) + summarized
    assert (left.most_input_tokens > 0) is (left.unreported_reads > 0)
    assert left.reported.input_tokens == (11 if reported else 0)


async def test_a_turn_ends_only_once(database: Database) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    await append(database, turn, "a")
    await finish(database, turn)
    with pytest.raises(TurnNotFound):
        await finish(database, turn)
    with pytest.raises(TurnNotFound):
        await append(database, turn, "b", first=3)
    assert await events(database, turn.turn_id) == [1, 2, 3]


async def test_a_deleted_turn_accepts_no_events(database: Database) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    with pytest.raises(TurnNotFound):
        await append(database, turn, "a")


async def test_events_are_replayed_after_any_sequence_in_pages_of_any_size(database: Database) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    await append(database, turn, *"abcdefgh")
    assert (await database.read(get_turn, ACME, turn_id=turn.turn_id)).last_sequence == 9
    assert await events(database, turn.turn_id) == list(range(1, 10))
    await finish(database, turn)
    assert await events(database, turn.turn_id, after=7) == [8, 9, 10]
    assert await events(database, turn.turn_id, limit=3) == [1, 2, 3, 4]
    assert await events(database, turn.turn_id, after=7, limit=2) == [8, 9]
    assert await events(database, turn.turn_id, after=9, limit=2) == [10]
    assert await events(database, turn.turn_id, max_characters=3) == [1, 2, 3, 4]
    assert await events(database, turn.turn_id, after=7, max_characters=2) == [8, 9]
    assert await events(database, turn.turn_id, after=9, max_characters=1) == [10]
    assert await events(database, turn.turn_id, after=10) == []
    with pytest.raises(SequenceAhead):
        await events(database, turn.turn_id, after=11)


async def test_an_unknown_turn_and_one_of_another_vault_are_not_found(database: Database) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    for scope, turn_id in ((EVIL, turn.turn_id), (ACME, "turn_none")):
        with pytest.raises(TurnNotFound):
            await database.read(get_turn, scope, turn_id=turn_id)
        with pytest.raises(TurnNotFound):
            await database.read(list_events, scope, turn_id=turn_id, after_sequence=0, limit=9, max_characters=9)


async def test_a_branch_is_busy_while_its_turn_runs_and_others_proceed(database: Database) -> None:
    session = await new_session(database)
    done = await new_turn(database, session.session_id)
    await finish(database, done)
    running = await new_turn(database, session.session_id)
    for parent in (None, running.user_message_id):
        with pytest.raises(BranchBusy) as refusal:
            await new_turn(database, session.session_id, parent=parent)
        assert refusal.value.metadata == {"turn_id": running.turn_id}
    for parent in ("", done.user_message_id):
        await new_turn(database, session.session_id, parent=parent)
    assert len((await database.read(get_session, ACME, session_id=session.session_id)).running_turn_ids) == 3


async def test_a_refused_turn_leaves_no_message(database: Database) -> None:
    session, other = await new_session(database), await new_session(database)
    elsewhere = await new_turn(database, other.session_id)
    for parent in ("msg_none", elsewhere.user_message_id):
        with pytest.raises(MessageNotFound):
            await new_turn(database, session.session_id, parent=parent)
    with pytest.raises(SessionNotFound):
        await new_turn(database, "ses_none")
    assert (await database.read(get_session, ACME, session_id=session.session_id)).message_count == 0


async def test_a_repeated_send_returns_its_turn_even_while_the_branch_is_busy(database: Database) -> None:
    session = await new_session(database)
    key = IdempotencyKey("SendMessage", "one", b"body")
    turn = await new_turn(database, session.session_id, request=key)
    assert await new_turn(database, session.session_id, request=key) == turn
    assert (await database.read(get_session, ACME, session_id=session.session_id)).message_count == 1


async def listed(database: Database, session_id: str, **query: Any) -> Page[Message]:
    values: dict[str, Any] = {
        "session_id": session_id,
        "leaf_message_id": None,
        "all_branches": False,
        "newest_first": False,
        "after": None,
        "page_size": 50,
        "max_size": 1_000_000,
    }
    return await database.read(list_messages, ACME, **(values | query))


def texts(page: Page[Message]) -> list[str]:
    return [text_of(message.content) for message in page.items]


async def tree(database: Database) -> tuple[str, str]:
    """Stores the branches a-b-c and a-B in the order a b c B. Returns (session id, id of c)."""
    session = (await new_session(database)).session_id
    sent: dict[str, str] = {}
    for name, parent in (("a", ""), ("b", "a"), ("c", "b"), ("B", "a")):
        turn = await new_turn(database, session, name, parent=sent.get(parent, ""))
        await finish(database, turn)
        sent[name] = turn.user_message_id
    return session, sent["c"]


async def test_messages_are_listed_by_branch_or_all_in_either_order(database: Database) -> None:
    session, leaf = await tree(database)
    assert texts(await listed(database, session)) == ["a", "B"]
    assert texts(await listed(database, session, newest_first=True)) == ["B", "a"]
    assert texts(await listed(database, session, leaf_message_id=leaf)) == ["a", "b", "c"]
    assert texts(await listed(database, session, all_branches=True)) == ["a", "b", "c", "B"]
    assert texts(await listed(database, session, all_branches=True, newest_first=True)) == ["B", "c", "b", "a"]


@pytest.mark.parametrize("all_branches", [True, False])
@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_of_messages_are_consistent_while_messages_arrive(
    database: Database, all_branches: bool, newest_first: bool
) -> None:
    session = (await new_session(database)).session_id
    for number in range(7):
        await finish(database, await new_turn(database, session, str(number)))
    order = {"all_branches": all_branches, "newest_first": newest_first}
    first = await listed(database, session, page_size=3, **order)
    await finish(database, await new_turn(database, session, "aside", parent=""))
    second = await listed(database, session, page_size=4, after=first.next_after, **order)
    expected = [str(number) for number in range(7)]
    assert texts(first) + texts(second) == (expected[::-1] if newest_first else expected)


async def test_pages_of_messages_are_limited_by_size(database: Database) -> None:
    session = (await new_session(database)).session_id
    for _ in range(4):
        await finish(database, await new_turn(database, session, "x" * 1000))
    for order in ({}, {"all_branches": True}, {"all_branches": True, "newest_first": True}):
        page = await listed(database, session, max_size=2000, **order)
        assert len(page.items) == 2
        assert page.next_after is not None


async def test_a_leaf_of_another_session_is_not_found(database: Database) -> None:
    session, leaf = await tree(database)
    other = (await new_session(database)).session_id
    with pytest.raises(MessageNotFound):
        await listed(database, other, leaf_message_id=leaf)
    with pytest.raises(SessionNotFound):
        await listed(database, "ses_none")
    assert (await listed(database, other)).items == ()
    assert session != other


async def test_a_branch_is_read_from_its_root(database: Database) -> None:
    session, leaf = await tree(database)
    branch = await database.read(get_branch, ACME, session_id=session, leaf_message_id=leaf, max_bytes=1_000_000)
    assert [(text_of(message.content), message.is_root) for message in branch.messages or ()] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    unread = await database.read(
        get_branch, ACME, session_id=session, leaf_message_id=leaf, max_bytes=1_000_000, read_bytes=branch.size - 1
    )
    assert (unread.size, unread.messages) == (branch.size, None)
    assert new_message(session).parent_message_id is None


async def test_a_page_of_turns_is_cut_short_where_few_have_the_status(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MOST_VISITED", 4)
    session = (await new_session(database)).session_id
    for number in range(11):
        turn = await new_turn(database, session, str(number))
        await finish(database, turn, status=TurnStatus.FAILED if number == 1 else TurnStatus.COMPLETED)
    shown: list[TurnStatus] = []
    pages = 0
    after = None
    while after is not None or not pages:
        page = await database.read(
            list_turns, ACME, session_id=session, status=TurnStatus.FAILED, after=after, page_size=50, max_size=10_000
        )
        shown += [turn.status for turn in page.items]
        after, pages = page.next_after, pages + 1
    assert shown == [TurnStatus.FAILED]
    assert pages == 3
