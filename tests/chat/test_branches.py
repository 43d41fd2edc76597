"""Cancelling, regenerating, editing and deleting, through a whole server."""

import asyncio
import time
import uuid
from typing import Any

from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2, turn_pb2

from tests.support.caller import Caller, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.refusal import refused
from tests.support.turns import cancel, deltas, followed, get_session, get_turn, regenerate


def delete(caller: Caller, message_id: str) -> Any:
    return caller.chat.DeleteMessage(pb.DeleteMessageRequest(message_id=message_id), metadata=caller.metadata)


async def list_turns(caller: Caller, session_id: str, **fields: Any) -> pb.ListTurnsResponse:
    request = pb.ListTurnsRequest(session_id=session_id, **fields)
    response: pb.ListTurnsResponse = await caller.chat.ListTurns(request, metadata=caller.metadata)
    return response


async def test_cancelling_keeps_the_partial_reply_and_closes_the_upstream_connection(
    alice: Caller, api: FakeMessagesApi
) -> None:
    api.default = Reply(("partial ",), ending="stall")
    session = await alice.create_session()
    call = alice.start(session.session_id)
    events = [await call.next(), await call.next()]
    began = time.monotonic()
    turn = await cancel(alice, events[0].turn_id)
    await api.until_idle()
    # A generous bound; the torture harness measures the actual time.
    assert time.monotonic() - began < 5
    events += await call.rest()
    finished = events[-1].turn_finished
    assert (turn.status, finished.status) == (turn_pb2.TURN_STATUS_CANCELLED, turn_pb2.TURN_STATUS_CANCELLED)
    assert not finished.HasField("error")
    assert text_of(finished.message) == deltas(events) == "partial "
    assert finished.usage.input_tokens == 11
    assert (await get_session(alice, session.session_id)).running_turn_ids == []
    assert await cancel(alice, events[0].turn_id) == turn
    assert await followed(alice, events[0].turn_id) == events


async def test_cancelling_a_finished_turn_does_not_change_it(alice: Caller) -> None:
    session = await alice.create_session()
    events = await alice.send(session.session_id)
    assert (await cancel(alice, events[0].turn_id)).status == turn_pb2.TURN_STATUS_COMPLETED
    assert (await refused(cancel(alice, "turn_" + "0" * 32))).reason == "TURN_NOT_FOUND"


async def test_cancelling_before_the_first_token_stores_no_reply(alice: Caller, api: FakeMessagesApi) -> None:
    api.script.append(Reply((), ending="stall"))
    session = await alice.create_session()
    call = alice.start(session.session_id)
    started = await call.next()
    await api.until_answering()
    assert (await get_session(alice, session.session_id)).running_turn_ids == [started.turn_id]
    assert (await cancel(alice, started.turn_id)).status == turn_pb2.TURN_STATUS_CANCELLED
    (finished,) = await call.rest()
    assert not finished.turn_finished.HasField("message")
    await alice.send(session.session_id, "again")
    assert [message["role"] for message in api.requests[-1].body["messages"]] == ["user", "user"]


async def test_a_regenerated_reply_is_a_sibling_with_the_same_options(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    tool = generation_pb2.Tool(name="t", input_schema="{}")
    options = {"max_output_tokens": 77, "stop_sequences": ["END"], "tools": [tool]}
    first = await alice.send(session.session_id, "Hello", **options)
    user = first[0].turn_started.user_message_id
    api.script.append(Reply(("Another.",)))
    events = await regenerate(alice, user).rest()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    reply = events[-1].turn_finished.message
    assert (reply.parent_message_id, text_of(reply)) == (user, "Another.")
    assert api.requests[0].body == api.requests[1].body
    assert (await get_session(alice, session.session_id)).current_leaf_message_id == reply.message_id
    assert [text_of(message) for message in await alice.messages(session.session_id)] == ["Hello", "Another."]
    older = await alice.messages(session.session_id, leaf_message_id=first[-1].turn_finished.message.message_id)
    assert [text_of(message) for message in older] == ["Hello", "You said: Hello"]
    assert len(await alice.messages(session.session_id, all_branches=True)) == 3


async def test_regenerating_accepts_other_options_and_can_be_repeated(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    user = (await alice.send(session.session_id, max_output_tokens=77))[0].turn_started.user_message_id
    request_id = str(uuid.uuid4())
    fields = {"max_output_tokens": 88, "stop_sequences": ["END"], "request_id": request_id}
    repeated = await asyncio.gather(*(regenerate(alice, user, **fields).rest() for _ in range(4)))
    assert all(events == repeated[0] for events in repeated)
    assert len(api.requests) == 2
    assert (api.requests[1].body["max_tokens"], api.requests[1].body["stop_sequences"]) == (88, ["END"])
    refusal = await refused(regenerate(alice, user, request_id=request_id).rest())
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_only_an_idle_user_message_can_be_regenerated(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    done = await alice.send(session.session_id)
    user, reply = done[0].turn_started.user_message_id, done[-1].turn_finished.message.message_id
    refusal = await refused(regenerate(alice, reply).rest())
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "NOT_A_USER_MESSAGE")
    api.script.append(Reply(("a",), ending="stall"))
    running = regenerate(alice, user)
    started = await running.next()
    for attempt in (regenerate(alice, user).rest(), alice.send(session.session_id, parent_message_id=user)):
        refusal = await refused(attempt)
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "BRANCH_BUSY")
        assert refusal.info.metadata == {"turn_id": started.turn_id}
    # The branch below the older reply is free.
    assert (await alice.send(session.session_id, parent_message_id=reply))[-1].HasField("turn_finished")
    await cancel(alice, started.turn_id)


async def test_an_edited_message_is_a_sibling_of_the_original(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    first = await alice.send(session.session_id, "one")
    before = first[-1].turn_finished.message.message_id
    await alice.send(session.session_id, "two")
    await alice.send(session.session_id, "two, better", parent_message_id=before)
    assert [message["content"][0]["text"] for message in api.requests[-1].body["messages"]] == [
        "one",
        "You said: one",
        "two, better",
    ]
    newest_first = await alice.messages(session.session_id, order_by=pb.MESSAGE_ORDER_NEWEST_FIRST, page_size=2)
    assert [text_of(message) for message in newest_first] == ["You said: two, better", "two, better"]


async def test_a_deleted_message_keeps_its_place_without_its_content(alice: Caller, api: FakeMessagesApi) -> None:
    api.script.append(Reply(("the ", "swordfish ", "reply"), delay=0.01))
    session = await alice.create_session()
    events = await alice.send(session.session_id, "my password is swordfish")
    user, reply = events[0].turn_started.user_message_id, events[-1].turn_finished.message.message_id
    for message_id in (user, reply):
        blanked = (await delete(alice, message_id)).message
        assert (list(blanked.content), blanked.HasField("delete_time")) == ([], True)
        assert (await delete(alice, message_id)).message == blanked
    query = pb.SearchMessagesRequest(query="swordfish")
    assert list((await alice.chat.SearchMessages(query, metadata=alice.metadata)).results) == []
    (finished,) = await followed(alice, events[0].turn_id)
    assert finished.sequence == events[-1].sequence
    assert list(finished.turn_finished.message.content) == []
    assert b"swordfish" not in finished.SerializeToString()
    await alice.send(session.session_id, "Hello")
    assert "swordfish" not in str(api.requests[-1].body)
    assert [message["role"] for message in api.requests[-1].body["messages"]] == ["user", "user"]
    assert len(await alice.messages(session.session_id)) == 4
    refusal = await refused(regenerate(alice, user).rest())
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "MESSAGE_DELETED")


async def test_deleting_a_reply_ends_the_replay_of_its_events(alice: Caller, api: FakeMessagesApi) -> None:
    api.script.append(Reply(("the ", "swordfish ", "reply"), delay=0.01))
    session = await alice.create_session()
    request_id = str(uuid.uuid4())
    events = await alice.send(session.session_id, "Hello", request_id=request_id)
    await delete(alice, events[-1].turn_finished.message.message_id)
    replays = [await followed(alice, events[0].turn_id, after) for after in (0, 1, events[-1].sequence - 1)]
    replays.append(await alice.send(session.session_id, "Hello", request_id=request_id))
    for (finished,) in replays:
        assert finished.sequence == events[-1].sequence
        assert list(finished.turn_finished.message.content) == []
        assert b"swordfish" not in finished.SerializeToString()


async def test_deleting_a_question_leaves_the_replay_of_its_answer(alice: Caller) -> None:
    session = await alice.create_session()
    events = await alice.send(session.session_id, "Hello")
    await delete(alice, events[0].turn_started.user_message_id)
    assert await followed(alice, events[0].turn_id) == events


async def test_a_message_with_a_running_turn_cannot_be_deleted(alice: Caller, api: FakeMessagesApi) -> None:
    api.script.append(Reply(("a",), ending="stall"))
    session = await alice.create_session()
    call = alice.start(session.session_id)
    started = await call.next()
    refusal = await refused(delete(alice, started.turn_started.user_message_id))
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "BRANCH_BUSY")
    await cancel(alice, started.turn_id)
    assert (await delete(alice, started.turn_started.user_message_id)).message.HasField("delete_time")


async def test_turns_are_listed_newest_first_by_session_and_status(alice: Caller, api: FakeMessagesApi) -> None:
    session, other = await alice.create_session(), await alice.create_session()
    ids = [(await alice.send(session.session_id, str(number)))[0].turn_id for number in range(3)]
    await alice.send(other.session_id)
    api.script.append(Reply(("a",), ending="stall"))
    call = alice.start(session.session_id)
    running = (await call.next()).turn_id
    assert [turn.turn_id for turn in (await list_turns(alice, session.session_id)).turns] == [running, *ids[::-1]]
    completed = turn_pb2.TURN_STATUS_COMPLETED
    first = await list_turns(alice, session.session_id, status=completed, page_size=2)
    rest = await list_turns(alice, session.session_id, status=completed, page_size=2, page_token=first.next_page_token)
    assert [turn.turn_id for turn in (*first.turns, *rest.turns)] == ids[::-1]
    assert (bool(first.next_page_token), rest.next_page_token) == (True, "")
    assert (await get_turn(alice, running)).status == turn_pb2.TURN_STATUS_RUNNING
    refusal = await refused(list_turns(alice, other.session_id, page_token=first.next_page_token))
    assert refusal.reason == "PAGE_TOKEN_INVALID"
    await cancel(alice, running)
