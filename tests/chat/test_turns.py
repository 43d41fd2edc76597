"""Turns in a whole server whose replies come from a Messages API over HTTP."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2

from tests.support.caller import Caller, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Hangup, Refusal, Reply, Silence
from tests.support.refusal import refused
from tests.support.serving import Serving, asking
from tests.support.turns import WORDS, deltas, followed, get_session, get_turn, stream


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"anthropic_stall_seconds": 2}


async def test_a_reply_is_streamed_and_stored(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(WORDS)
    session = await alice.create_session(system_prompt="Be brief.", model="claude-opus-5-5")
    events = await alice.send(session.session_id, "Hello there")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].turn_started.model == "claude-opus-5-5"
    finished = events[-1].turn_finished
    assert (finished.status, finished.stop_reason) == (
        turn_pb2.TURN_STATUS_COMPLETED,
        turn_pb2.STOP_REASON_END_TURN,
    )
    assert deltas(events) == text_of(finished.message) == "".join(WORDS)
    assert (finished.usage.input_tokens, finished.usage.output_tokens) == (11, 200)
    assert (finished.usage.cache_read_tokens, finished.usage.cache_write_tokens) == (5, 3)
    stored = await alice.messages(session.session_id)
    assert [text_of(message) for message in stored] == ["Hello there", "".join(WORDS)]
    assert stored[1] == finished.message
    assert stored[0].message_id == events[0].turn_started.user_message_id
    turn = await get_turn(alice, events[0].turn_id)
    assert (turn.status, turn.last_sequence, turn.model_calls) == (finished.status, len(events), 1)
    assert turn.reply_message_id == finished.message.message_id
    assert api.requests[0].body["system"] == "Be brief."


async def test_the_next_prompt_includes_the_conversation(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "one")
    await alice.send(session.session_id, "two")
    prompt = [(message["role"], message["content"][0]["text"]) for message in api.requests[1].body["messages"]]
    assert prompt == [("user", "one"), ("assistant", "You said: one"), ("user", "two")]


async def test_deltas_that_arrive_during_a_commit_are_merged(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(WORDS)
    session = await alice.create_session()
    events = await alice.send(session.session_id)
    assert deltas(events) == "".join(WORDS)
    assert len(events) < len(WORDS) / 2


async def test_deltas_arrive_while_the_reply_is_being_generated(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.default = Reply(("first ", "second"), hold=hold)
    session = await alice.create_session()
    call = alice.start(session.session_id)
    events = [await call.next()]
    events.append(await call.next())
    assert deltas(events) == "first "
    now = await get_session(alice, session.session_id)
    assert list(now.running_turn_ids) == [events[0].turn_id]
    hold.set()
    events += await call.rest()
    assert deltas(events) == "first second"


async def test_a_replay_from_any_sequence_returns_the_same_events(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(WORDS, delay=0.0005)
    session = await alice.create_session()
    events = await alice.send(session.session_id)
    turn_id = events[0].turn_id
    for after in (0, 1, len(events) // 2, len(events) - 1):
        assert await followed(alice, turn_id, after) == events[after:]
    assert await followed(alice, turn_id, len(events)) == []
    refusal = await refused(stream(alice, turn_id, len(events) + 1))
    assert (refusal.code.name, refusal.reason) == ("OUT_OF_RANGE", "SEQUENCE_AHEAD")
    assert refusal.info.metadata == {"last_sequence": str(len(events))}


async def test_a_reply_continues_and_is_kept_when_its_caller_disconnects(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    hold = asyncio.Event()
    api.default = Reply(WORDS, hold=hold, hold_after=50)
    session = await alice.create_session()
    leaving = running.caller()
    call = leaving.start(session.session_id)
    seen = [await call.next(), await call.next()]
    call.call.cancel()
    await leaving.channel.close()
    hold.set()
    rest = await followed(alice, seen[0].turn_id, seen[-1].sequence)
    assert deltas(seen + rest) == "".join(WORDS)
    assert [event.sequence for event in seen + rest] == list(range(1, len(seen + rest) + 1))


async def test_all_followers_of_a_turn_see_the_same_events(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(WORDS, delay=0.001)
    session = await alice.create_session()
    call = alice.start(session.session_id)
    first = await call.next()
    followers = [asyncio.create_task(followed(alice, first.turn_id, after)) for after in (0, 1, 0, 1)]
    events = [first] + await call.rest()
    for follower, after in zip(followers, (0, 1, 0, 1), strict=True):
        assert await follower == events[after:]


FAILURES: list[tuple[Behaviour, str, str]] = [
    (Refusal(401, "authentication_error"), "UPSTREAM_UNAUTHENTICATED", ""),
    (Refusal(429, "rate_limit_error", (("retry-after", "7"),)), "UPSTREAM_RATE_LIMITED", ""),
    (Refusal(529, "overloaded_error"), "UPSTREAM_OVERLOADED", ""),
    (Refusal(404, "not_found_error"), "UPSTREAM_REJECTED", ""),
    (Refusal(500, "api_error"), "UPSTREAM_UNAVAILABLE", ""),
    (Hangup(), "UPSTREAM_UNAVAILABLE", ""),
    (Silence(), "UPSTREAM_STALLED", ""),
    (Reply(("ab ", "cd"), ending="error", error_type="overloaded_error"), "UPSTREAM_OVERLOADED", "ab cd"),
    (Reply(("ab ", "cd"), ending="error"), "UPSTREAM_INTERRUPTED", "ab cd"),
    (Reply(("ab ", "cd"), ending="drop"), "UPSTREAM_INTERRUPTED", "ab cd"),
    (Reply(("ab ", "cd"), ending="stall"), "UPSTREAM_STALLED", "ab cd"),
    (Reply(("ab ", "cd"), ending="garbage"), "UPSTREAM_INTERRUPTED", "ab cd"),
]


@pytest.mark.parametrize(("behaviour", "reason", "kept"), FAILURES, ids=lambda value: str(value)[:50])
async def test_an_upstream_failure_fails_the_turn_once_and_keeps_the_partial_reply(
    alice: Caller, api: FakeMessagesApi, behaviour: Behaviour, reason: str, kept: str
) -> None:
    api.default = behaviour
    session = await alice.create_session()
    events = await alice.send(session.session_id, "Hello")
    finished = [event.turn_finished for event in events if event.HasField("turn_finished")]
    assert [(end.status, end.error.reason) for end in finished] == [(turn_pb2.TURN_STATUS_FAILED, reason)]
    assert finished[0].error.message
    assert "provider's own words" not in str(events)
    assert deltas(events) == kept
    stored = await alice.messages(session.session_id)
    assert [text_of(message) for message in stored] == ["Hello", kept] if kept else ["Hello"]
    assert await followed(alice, events[0].turn_id) == events
    if reason == "UPSTREAM_RATE_LIMITED":
        assert finished[0].error.retry_delay.seconds == 7
    api.default = None
    again = await alice.send(session.session_id, "Again")
    assert again[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED


async def test_a_turn_has_its_own_time_limit(api: FakeMessagesApi, tmp_path: Path) -> None:
    # Words keep coming, and the first ones have two seconds.
    api.default = Reply(("word ",) * 1_000, delay=0.05)
    async with asking(api, tmp_path, turn_timeout_seconds=2) as running:
        alice = running.caller()
        session = await alice.create_session()
        events = await alice.send(session.session_id)
    finished = events[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "TURN_TIMEOUT")
    assert text_of(finished.message) == deltas(events) != ""


async def test_a_branch_is_busy_while_its_turn_runs(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.script.append(Reply(("a", "b"), hold=hold))
    session = await alice.create_session()
    call = alice.start(session.session_id)
    started = await call.next()
    # Its request used the reply that is on hold.
    await call.next()
    for parent in ({}, {"parent_message_id": started.turn_started.user_message_id}):
        refusal = await refused(alice.send(session.session_id, **parent))
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "BRANCH_BUSY")
        assert refusal.info.metadata == {"turn_id": started.turn_id}
    aside = await alice.send(session.session_id, "aside", parent_message_id="")
    assert aside[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
    hold.set()
    await call.rest()
    assert len(await alice.messages(session.session_id, all_branches=True)) == 4


async def test_a_repeated_send_replays_its_turn_and_another_body_is_refused(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    request_id = str(uuid.uuid4())
    sent = await asyncio.gather(*(alice.send(session.session_id, request_id=request_id) for _ in range(5)))
    assert all(events == sent[0] for events in sent)
    assert await alice.send(session.session_id, request_id=request_id) == sent[0]
    assert len(api.requests) == 1
    assert len(await alice.messages(session.session_id)) == 2
    refusal = await refused(alice.send(session.session_id, "Another", request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_deleting_a_session_ends_its_streams_and_closes_its_upstream_connection(
    alice: Caller, api: FakeMessagesApi
) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    session = await alice.create_session()
    call = alice.start(session.session_id)
    started = await call.next()
    follower = asyncio.create_task(refused(stream(alice, started.turn_id)))
    request = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.chat.DeleteSession(request, metadata=alice.metadata)
    for refusal in (await refused(call.rest()), await follower):
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "TURN_NOT_FOUND")
    await api.until_idle()
    assert (await refused(get_turn(alice, started.turn_id))).reason == "TURN_NOT_FOUND"


async def test_a_deadline_ends_the_stream_but_not_the_turn(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.default = Reply(("a", "b"), hold=hold)
    session = await alice.create_session()
    call = alice.start(session.session_id, timeout=0.3)
    started = await call.next()
    assert (await refused(call.rest())).code is grpc.StatusCode.DEADLINE_EXCEEDED
    hold.set()
    assert deltas(await followed(alice, started.turn_id)) == "ab"


async def test_a_late_follower_receives_the_whole_long_reply(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    chunks = tuple(f"{number} " for number in range(3000))
    api.default = Reply(chunks, hold=hold, hold_after=2999, delay=0.0002)
    session = await alice.create_session()
    call = alice.start(session.session_id)
    events = [await call.next()]
    while not deltas(events).endswith(" 2998 "):
        events.append(await call.next())
    late = asyncio.create_task(followed(alice, events[0].turn_id))
    hold.set()
    events += await call.rest()
    assert await late == events
    assert deltas(events) == "".join(chunks)


async def test_blank_text_is_stored_but_not_sent_to_the_model(alice: Caller, api: FakeMessagesApi) -> None:
    api.script.append(Reply(("  \n",)))
    session = await alice.create_session()
    events = await alice.send(session.session_id, "one")
    assert text_of(events[-1].turn_finished.message) == "  \n"
    await alice.send(session.session_id, "two")
    assert [message["content"][0]["text"] for message in api.requests[1].body["messages"]] == ["one", "two"]
