"""Tools, thinking, structured output and compaction, for callers and for the Messages API."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1 import generation_pb2, message_pb2, turn_pb2
from metamorph_client.chat.v1.chat_service_pb2 import CancelTurnRequest, CountTokensRequest

from tests.support.caller import Caller, send_request, text_block, text_of
from tests.support.catalogs import permissive
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply, compaction, redacted_thinking, thinking, tool_use
from tests.support.refusal import refused
from tests.support.tools import ASKS, CALL, SCHEMA, WEATHER, result
from tests.support.turns import followed, get_turn

TOOL, ANY = generation_pb2.TOOL_CHOICE_MODE_TOOL, generation_pb2.TOOL_CHOICE_MODE_ANY
ADAPTIVE, ENABLED = generation_pb2.THINKING_MODE_ADAPTIVE, generation_pb2.THINKING_MODE_ENABLED
THINKS = generation_pb2.ThinkingConfig(mode=ENABLED, budget_tokens=2048)
# The server's limit, which applies if a request sets none.
THINKS_LONG = generation_pb2.ThinkingConfig(mode=ENABLED, budget_tokens=32_000)


def nested(levels: int) -> str:
    """Returns a JSON object of so many levels."""
    return '{"z": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return {"model_catalog": permissive(tmp_path)}


async def send(caller: Caller, session_id: str, *content: message_pb2.ContentBlock, **fields: Any) -> Any:
    """Sends `content` and returns every event of its turn."""
    message: dict[str, Any] = {"content": content} if content else {}
    return await caller.send(session_id, **message, **fields)


def kinds(events: list[turn_pb2.TurnEvent]) -> list[str]:
    """Returns the kinds of events, with runs of one kind collapsed."""
    every = [str(event.WhichOneof("event")) for event in events]
    return [kind for place, kind in enumerate(every) if place == 0 or every[place - 1] != kind]


async def test_a_tool_call_arrives_complete_and_its_result_is_sent_back(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([ASKS, Reply(("It is sunny.",))])
    events = await send(alice, session.session_id, tools=[WEATHER])
    (call,) = [event.tool_use for event in events if event.HasField("tool_use")]
    assert (call.block_index, call.tool_use_id, call.name) == (1, "toolu_1", "weather")
    assert call.input == '{"z": 1, "a": "Paris"}'
    finished = events[-1].turn_finished
    assert (finished.status, finished.stop_reason) == (
        turn_pb2.TURN_STATUS_COMPLETED,
        turn_pb2.STOP_REASON_TOOL_USE,
    )
    assert finished.message.content[1].tool_use.input == call.input
    assert await followed(alice, events[0].turn_id) == events
    answered = await send(alice, session.session_id, result(), text_block("Well?"))
    assert text_of(answered[-1].turn_finished.message) == "It is sunny."
    first, second = (received.body for received in api.requests)
    # If omitted with a result, the tools are those of the previous turn, byte for byte, so that the cache is used.
    assert json.dumps(first["tools"]) == json.dumps(second["tools"])
    assert json.dumps(first["tools"][0]["input_schema"]) == SCHEMA
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"][1] == {
        "type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"z": 1, "a": "Paris"},
    }  # fmt: skip
    assert second["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny"}]},
        {"type": "text", "text": "Well?"},
    ]
    stored = await alice.messages(session.session_id)
    assert stored[2].content[0] == result()


async def test_pending_tool_calls_must_be_answered_exactly(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    second = tool_use("toolu_2", "weather", "{}")
    api.script.append(Reply((CALL, second), stop_reason="tool_use"))
    calling = (await send(alice, session.session_id, tools=[WEATHER]))[-1].turn_finished.message
    for content in (
        [text_block("Never mind")],
        [result()],
        [result(), result()],
        [result(), result("toolu_2"), result()],
    ):
        refusal = await refused(send(alice, session.session_id, *content))
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "TOOL_RESULT_REQUIRED")
        assert refusal.info.metadata == {"tool_use_ids": "toolu_1,toolu_2"}
    refusal = await refused(send(alice, session.session_id, result(), result("toolu_9")))
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "TOOL_RESULT_UNEXPECTED")
    assert refusal.info.metadata == {"tool_use_ids": "toolu_9"}
    # Another branch has no pending calls and accepts no results.
    refusal = await refused(send(alice, session.session_id, result(), parent_message_id=""))
    assert refusal.reason == "TOOL_RESULT_UNEXPECTED"
    assert (await send(alice, session.session_id, parent_message_id=""))[-1].HasField("turn_finished")
    both = [result("toolu_2", "Rain"), result(is_error=True)]
    await send(alice, session.session_id, *both, parent_message_id=calling.message_id)
    assert [block.get("is_error", False) for block in api.requests[-1].body["messages"][-1]["content"]] == [False, True]


@pytest.mark.parametrize("ending", ["cancel", "drop", "max_tokens"])
async def test_tool_calls_of_an_unfinished_turn_are_stored_but_not_sent_to_the_model(
    alice: Caller, api: FakeMessagesApi, ending: str
) -> None:
    session = await alice.create_session()
    half = tool_use("toolu_1", "weather", '{"z": ')
    match ending:
        case "drop":
            api.script.append(Reply(("Well, ", CALL), ending="drop"))
        case "max_tokens":
            api.script.append(Reply(("Well, ", half), stop_reason="max_tokens"))
        case "cancel":
            api.script.append(Reply(("Well, ", CALL), ending="stall"))
    call = alice.start(session.session_id, tools=[WEATHER])
    events = [await call.next()]
    while not events[-1].HasField("tool_use"):
        events.append(await call.next())
    if ending == "cancel":
        await alice.chat.CancelTurn(CancelTurnRequest(turn_id=events[0].turn_id), metadata=alice.metadata)
    events += await call.rest()
    assert events[-1].turn_finished.message.content[1].tool_use.name == "weather"
    assert (await refused(send(alice, session.session_id, result()))).reason == "TOOL_RESULT_UNEXPECTED"
    api.script.append(Reply(("Fine.",)))
    await send(alice, session.session_id)
    sent = api.requests[-1].body["messages"]
    assert sent[1] == {"role": "assistant", "content": [{"type": "text", "text": "Well, "}]}


@pytest.mark.parametrize("written", ['{"z": ', '{"z": Infinity}', "[]", nested(501)])
async def test_a_malformed_tool_call_fails_the_turn(alice: Caller, api: FakeMessagesApi, written: str) -> None:
    session = await alice.create_session()
    api.script.append(Reply((tool_use("toolu_1", "weather", written),), stop_reason="tool_use"))
    finished = (await send(alice, session.session_id, tools=[WEATHER]))[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "UPSTREAM_INTERRUPTED")
    assert (await send(alice, session.session_id))[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED


async def test_signed_thinking_is_sent_back_unchanged(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    thoughts = (thinking("Hmm. ", "sig-1"), redacted_thinking("secret"), thinking("", "sig-2"))
    api.script.append(Reply((*thoughts, "Yes.")))
    mode = generation_pb2.ThinkingConfig(mode=generation_pb2.THINKING_MODE_ENABLED, budget_tokens=2048)
    events = await send(alice, session.session_id, thinking=mode)
    assert kinds(events)[:2] == ["turn_started", "thinking_delta"]
    assert "".join(event.thinking_delta.text for event in events) == "Hmm. "
    blocks = events[-1].turn_finished.message.content
    assert [block.WhichOneof("block") for block in blocks] == ["thinking"] * 3 + ["text"]
    assert (blocks[0].thinking.signature, blocks[1].thinking.redacted) == (b"sig-1", b"secret")
    assert api.requests[0].body["thinking"] == {"type": "enabled", "budget_tokens": 2048, "display": "summarized"}
    await send(alice, session.session_id)
    assert api.requests[1].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hmm. ", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "thinking", "thinking": "", "signature": "sig-2"},
        {"type": "text", "text": "Yes."},
    ]
    assert "thinking" not in api.requests[1].body


async def test_unsigned_thinking_is_stored_but_not_sent_to_the_model(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(Reply((thinking("Hmm"), "Ye"), ending="drop"))
    message = (await send(alice, session.session_id))[-1].turn_finished.message
    assert (message.content[0].thinking.text, message.content[1].text.text) == ("Hmm", "Ye")
    await send(alice, session.session_id)
    assert api.requests[1].body["messages"][1]["content"] == [{"type": "text", "text": "Ye"}]


async def test_a_response_schema_and_a_tool_choice_are_passed_on(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.default = Reply(('{"a": "b"}',))
    choice = generation_pb2.ToolChoice(
        mode=generation_pb2.TOOL_CHOICE_MODE_TOOL, name="weather", disable_parallel_tool_use=True
    )
    await send(alice, session.session_id, tools=[WEATHER], tool_choice=choice, response_schema=SCHEMA)
    body = api.requests[0].body
    assert json.dumps(body["output_config"]["format"]) == '{"type": "json_schema", "schema": ' + SCHEMA + "}"
    assert body["tool_choice"] == {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}


async def test_where_no_tool_may_be_called_nothing_is_said_of_several(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    choice = generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NONE, disable_parallel_tool_use=True)
    finished = (await send(alice, session.session_id, tools=[WEATHER], tool_choice=choice))[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_COMPLETED
    assert api.requests[0].body["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_schema": "no json"}, "response_schema"),
        ({"response_schema": "[1]"}, "response_schema"),
        ({"response_schema": '{"a": NaN}'}, "response_schema"),
        ({"response_schema": '{"a": 1e400}'}, "response_schema"),
        ({"response_schema": '{"a": "\\ud800"}'}, "response_schema"),
        ({"response_schema": "[" * 50_000}, "response_schema"),
        ({"response_schema": nested(501)}, "response_schema"),
        ({"tools": [generation_pb2.Tool(name="a", input_schema=nested(501))]}, "tools.values[0].input_schema"),
        ({"tools": [generation_pb2.Tool(name="a", input_schema="{]")]}, "tools.values[0].input_schema"),
        ({"tools": [generation_pb2.Tool(name="a b", input_schema="{}")]}, "tools.values[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": generation_pb2.ToolChoice(mode=TOOL)}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": generation_pb2.ToolChoice(mode=TOOL, name="other")}, "tool_choice.name"),
        ({"tools": [], "tool_choice": generation_pb2.ToolChoice(mode=ANY)}, "tool_choice.mode"),
        ({"tool_choice": generation_pb2.ToolChoice(mode=ANY)}, "tool_choice.mode"),
        ({"tool_choice": generation_pb2.ToolChoice(mode=TOOL, name="weather")}, "tool_choice.mode"),
        ({"thinking": generation_pb2.ThinkingConfig(mode=ENABLED, budget_tokens=5)}, "thinking"),
        ({"thinking": generation_pb2.ThinkingConfig(mode=ADAPTIVE, budget_tokens=2048)}, "thinking"),
        ({"max_output_tokens": 2048, "thinking": THINKS}, "thinking.budget_tokens"),
        ({"thinking": THINKS_LONG}, "thinking.budget_tokens"),
    ],
)
async def test_invalid_options_are_refused(alice: Caller, fields: dict[str, Any], field: str) -> None:
    session = await alice.create_session()
    refusal = await refused(send(alice, session.session_id, **fields))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == [f"options.{field}"]
    assert await alice.messages(session.session_id) == []


async def test_what_is_nested_as_deeply_as_accepted_can_be_sent(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    tool = generation_pb2.Tool(name="weather", input_schema=nested(500))
    api.script.append(Reply((tool_use("toolu_1", "weather", nested(500)),), stop_reason="tool_use"))
    for content in ([], [result()]):
        events = await send(alice, session.session_id, *content, tools=[tool], response_schema=nested(500))
        assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED


async def test_a_user_message_with_forbidden_content_is_refused(alice: Caller) -> None:
    session = await alice.create_session()
    forbidden = [
        [message_pb2.ContentBlock(tool_use=message_pb2.ToolUseBlock(tool_use_id="x", name="y", input="{}"))],
        [message_pb2.ContentBlock(thinking=message_pb2.ThinkingBlock(text="hmm"))],
        [message_pb2.ContentBlock(compaction=message_pb2.CompactionBlock(summary="hmm"))],
        [text_block("first"), result()],
    ]
    for content in forbidden:
        assert (await refused(send(alice, session.session_id, *content))).reason == "REQUEST_INVALID"


async def test_a_long_session_is_summarised_for_the_model_but_stored_unchanged(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    await send(alice, session.session_id, text_block("one"))
    spent = {"input_tokens": 1000, "output_tokens": 50}
    cached = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    usage = ({"type": "compaction", **spent, **cached}, {"type": "message", **spent, **cached})
    api.script.append(Reply((compaction("They said one.", encrypted_content="e"), "Two."), iterations=usage))
    events = await send(alice, session.session_id, text_block("two"))
    (compacted,) = [event.compaction for event in events if event.HasField("compaction")]
    assert (compacted.block_index, compacted.summary) == (0, "They said one.")
    # The provider's own total does not include the tokens of the summary.
    assert (events[-1].turn_finished.usage.input_tokens, events[-1].turn_finished.usage.output_tokens) == (1011, 52)
    await send(alice, session.session_id, text_block("three"))
    edits = api.requests[-1].body["context_management"]["edits"]
    assert edits == [{"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 150_000}}]
    assert "compact-2026-01-12" in api.requests[-1].headers["anthropic-beta"]
    # The summary replaces the messages before it.
    assert [message["content"] for message in api.requests[-1].body["messages"]] == [
        [{"type": "text", "text": "two"}],
        [
            {"type": "compaction", "content": "They said one.", "encrypted_content": "e"},
            {"type": "text", "text": "Two."},
        ],
        [{"type": "text", "text": "three"}],
    ]
    stored = await alice.messages(session.session_id)
    assert [text_of(message) for message in stored][:4] == ["one", "You said: one", "two", "Two."]
    assert stored[3].content[0].compaction.summary == "They said one."


async def test_counting_tokens_of_a_summarised_session_sends_the_compaction_beta(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    api.script.append(
        Reply(
            (compaction("They said nothing."), "Well."),
        )
    )
    await send(alice, session.session_id)
    await alice.chat.CountTokens(CountTokensRequest(message=send_request(session.session_id)), metadata=alice.metadata)
    assert "compact-2026-01-12" in api.requests[-1].headers["anthropic-beta"]
    # The provider accepts no summary without it. No further one is made.
    (edit,) = api.requests[-1].body["context_management"]["edits"]
    assert edit["trigger"]["value"] == 100_000_000


async def test_a_turn_that_fails_while_thinking_stores_no_reply(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(Reply((thinking("Hmm"),), ending="drop"))
    events = await send(alice, session.session_id)
    assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_FAILED
    assert not events[-1].turn_finished.HasField("message")
    assert len(await alice.messages(session.session_id)) == 1


async def test_usage_is_reported_while_a_turn_runs(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.default = Reply(("aaa", "b"), hold=hold)
    session = await alice.create_session()
    call = alice.start(session.session_id)
    events = [await call.next(), await call.next(), await call.next()]
    hold.set()
    events += await call.rest()
    (update,) = [event.usage_update.usage for event in events[:3] if event.HasField("usage_update")]
    assert (update.input_tokens, update.cache_read_tokens, update.cache_write_tokens) == (11, 5, 3)
    assert (update.output_tokens, update.estimated) == (1, False)
    assert (await get_turn(alice, events[0].turn_id)).usage == events[-1].turn_finished.usage
