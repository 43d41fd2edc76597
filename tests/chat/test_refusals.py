"""Replies that the model declines to give."""

from typing import Any

import pytest
from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.chat.v1.message_pb2 import ContentBlock

from tests.support.caller import Caller, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Raw, Reply, compaction, sse
from tests.support.tools import ASKS, WEATHER, result
from tests.support.turns import followed, get_turn, regenerate

DETAILS = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
DECLINES = Reply(("I ca",), stop_reason="refusal", stop_details=DETAILS)

OPEN: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 7}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I ca"}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "refusal", "stop_details": DETAILS},
        "usage": {"output_tokens": 3},
    },
    {"type": "message_stop"},
]


async def sent(caller: Caller, api: FakeMessagesApi, session_id: str, *content: ContentBlock) -> list[str]:
    """Sends a message, and returns the texts that the model read."""
    await caller.send(session_id, **({"content": content} if content else {"text": "And now?"}))
    messages = api.requests[-1].body["messages"]
    return [block.get("text", block["type"]) for message in messages for block in message["content"]]


@pytest.mark.parametrize("chunks", [(), ("I ca",)])
async def test_what_was_declined_is_kept_and_not_sent_again(
    alice: Caller, api: FakeMessagesApi, chunks: tuple[str, ...]
) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "Hi")
    api.script.append(Reply(chunks, stop_reason="refusal", stop_details=DETAILS))
    events = await alice.send(session.session_id, "Bad")
    finished = events[-1].turn_finished
    assert (finished.status, finished.stop_reason) == (
        turn_pb2.TURN_STATUS_COMPLETED,
        turn_pb2.STOP_REASON_REFUSAL,
    )
    assert finished.stop_details == turn_pb2.StopDetails(category="cyber", explanation="Not this.")
    assert (await get_turn(alice, events[0].turn_id)).stop_details == finished.stop_details
    assert await followed(alice, events[0].turn_id) == events
    assert await sent(alice, api, session.session_id) == ["Hi", "You said: Hi", "And now?"]
    assert await sent(alice, api, session.session_id) == [
        "Hi", "You said: Hi", "And now?", "You said: And now?", "And now?",
    ]  # fmt: skip
    stored = await alice.messages(session.session_id)
    assert [text_of(message) for message in stored][2:4] == ["Bad", "".join(chunks)]


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (None, None),
        ("refusal", None),
        ({"type": "refusal", "category": None, "explanation": None}, None),
        ({"type": "refusal", "category": "bio", "explanation": None}, ("bio", "")),
        ({"type": "refusal", "category": None, "explanation": "Not this."}, ("", "Not this.")),
        ({"type": "refusal", "category": 7, "explanation": "x" * 5000}, ("", "x" * 4096)),
    ],
)
async def test_details_of_a_refusal_may_be_incomplete(
    alice: Caller, api: FakeMessagesApi, details: dict[str, str] | None, expected: tuple[str, str] | None
) -> None:
    session = await alice.create_session()
    api.script.append(Reply(("No",), stop_reason="refusal", stop_details=details))
    finished = (await alice.send(session.session_id))[-1].turn_finished
    assert finished.stop_reason == turn_pb2.STOP_REASON_REFUSAL
    assert finished.HasField("stop_details") == (expected is not None)
    if expected is not None:
        assert (finished.stop_details.category, finished.stop_details.explanation) == expected


@pytest.mark.parametrize("ends", [True, False])
async def test_a_refusal_may_leave_its_text_open(alice: Caller, api: FakeMessagesApi, ends: bool) -> None:
    session = await alice.create_session()
    api.script.append(Raw(sse(*(OPEN if ends else OPEN[:-1]))))
    finished = (await alice.send(session.session_id, "Bad"))[-1].turn_finished
    assert (finished.stop_reason, text_of(finished.message)) == (turn_pb2.STOP_REASON_REFUSAL, "I ca")
    assert finished.stop_details == turn_pb2.StopDetails(category="cyber", explanation="Not this.")
    assert await sent(alice, api, session.session_id) == ["And now?"]


async def test_only_a_refusal_has_details(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(Reply(("Well.",), stop_details=DETAILS))
    finished = (await alice.send(session.session_id))[-1].turn_finished
    assert (finished.stop_reason, finished.HasField("stop_details")) == (turn_pb2.STOP_REASON_END_TURN, False)


async def test_a_refusal_in_a_tool_exchange_leaves_out_all_of_the_exchange(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "Hi")
    api.script.extend([ASKS, DECLINES])
    await alice.send(session.session_id, "Weather?", tools=[WEATHER])
    await alice.send(session.session_id, content=[result()])
    assert await sent(alice, api, session.session_id) == ["Hi", "You said: Hi", "And now?"]


async def test_another_reply_to_what_was_declined_brings_it_back(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(DECLINES)
    asked = (await alice.send(session.session_id, "Hard"))[0].turn_started.user_message_id
    await regenerate(alice, asked).rest()
    assert await sent(alice, api, session.session_id) == ["Hard", "You said: Hard", "And now?"]


async def test_a_summary_in_a_refusal_replaces_nothing(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "Hi")
    api.script.append(Reply((compaction("So far."), "I ca"), stop_reason="refusal"))
    await alice.send(session.session_id, "Bad")
    assert await sent(alice, api, session.session_id) == ["Hi", "You said: Hi", "And now?"]
