"""Generation options that are absent, set, or set to an empty value."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2, turn_pb2
from metamorph_client.chat.v1.generation_pb2 import ThinkingConfig, ToolChoice
from metamorphd.models.generation import EffectiveOptions, GenerationOptions

from tests.support.caller import Caller, send_request
from tests.support.catalogs import permissive
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.refusal import refused
from tests.support.tools import ASKS, WEATHER, result
from tests.support.turns import cancel, followed, regenerate

THINKS = ThinkingConfig(mode=generation_pb2.THINKING_MODE_ENABLED, budget_tokens=2048)
ANY = ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_ANY)
NAMED = ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_TOOL, name="weather")
OTHER = ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_TOOL, name="other")
ALL: dict[str, Any] = {
    "model": "claude-haiku-5-5",
    "max_output_tokens": 4096,
    "stop_sequences": ["END"],
    "thinking": ThinkingConfig(mode=generation_pb2.THINKING_MODE_DISABLED),
    "tools": [WEATHER],
    "tool_choice": NAMED,
    "response_schema": '{"type": "object"}',
    "effort": generation_pb2.EFFORT_LOW,
}
EMPTY: dict[str, Any] = {
    "model": "",
    "max_output_tokens": 0,
    "stop_sequences": [],
    "thinking": ThinkingConfig(),
    "tools": [],
    "tool_choice": ToolChoice(),
    "response_schema": "",
    "effort": generation_pb2.EFFORT_UNSPECIFIED,
}
# The field of the provider's request for each option.
SENT = {
    "model": "model",
    "max_output_tokens": "max_tokens",
    "stop_sequences": "stop_sequences",
    "thinking": "thinking",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "response_schema": "output_config.format",
    "effort": "output_config.effort",
}
DEFAULTS = {"model": "claude-sonnet-5-5", "max_tokens": 32_000}


def sent(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a provider request that come from options."""
    values = dict(body) | {f"output_config.{key}": value for key, value in body.get("output_config", {}).items()}
    return {name: values.get(key) for name, key in SENT.items()}


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return {"model_catalog": permissive(tmp_path)}


async def test_every_option_is_in_the_contract_and_in_both_dataclasses() -> None:
    names = set(generation_pb2.GenerationOptions.DESCRIPTOR.fields_by_name)
    assert names == ALL.keys() == EMPTY.keys() == SENT.keys()
    # The session's.
    for shape, more in ((GenerationOptions, set[str]()), (EffectiveOptions, {"memory_tool"})):
        assert {field.name for field in dataclasses.fields(shape)} == names | more
    assert all(field.has_presence for field in generation_pb2.GenerationOptions.DESCRIPTOR.fields)


@pytest.mark.parametrize("option", ALL)
async def test_a_regeneration_clears_only_the_option_that_is_set_to_empty(
    alice: Caller, api: FakeMessagesApi, option: str
) -> None:
    session = await alice.create_session()
    user = (await alice.send(session.session_id, **ALL))[0].turn_started.user_message_id
    before = sent(api.requests[-1].body)
    await regenerate(alice, user).rest()
    assert sent(api.requests[-1].body) == before
    # Without tools there is no tool choice either.
    cleared = {option} | ({"tool_choice"} if option == "tools" else set())
    await regenerate(alice, user, **{name: EMPTY[name] for name in cleared}).rest()
    expected = before | {name: DEFAULTS.get(SENT[name]) for name in cleared}
    assert sent(api.requests[-1].body) == expected


@pytest.mark.parametrize("option", ALL)
async def test_an_option_that_is_set_to_empty_has_its_default_in_a_send(
    alice: Caller, api: FakeMessagesApi, option: str
) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, **{option: EMPTY[option]})
    assert sent(api.requests[-1].body) == dict.fromkeys(SENT) | {
        "model": DEFAULTS["model"],
        "max_output_tokens": DEFAULTS["max_tokens"],
    }


async def test_a_regeneration_with_an_empty_model_uses_the_sessions_model(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(model="claude-opus-5-5")
    user = (await alice.send(session.session_id, model="claude-haiku-5-5"))[0].turn_started.user_message_id
    assert (await regenerate(alice, user).rest())[0].turn_started.model == "claude-haiku-5-5"
    assert (await regenerate(alice, user, model="").rest())[0].turn_started.model == "claude-opus-5-5"
    # This applies to the new turn only. The next regeneration again uses the options of the original.
    assert (await regenerate(alice, user).rest())[0].turn_started.model == "claude-haiku-5-5"


async def test_a_tool_result_inherits_the_tools_unless_they_are_set(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(ASKS)
    called = await alice.send(session.session_id, tools=[WEATHER], thinking=THINKS, response_schema="{}")
    parent = called[-1].turn_finished.message.message_id
    answer: dict[str, Any] = {"content": [result()], "parent_message_id": parent}
    await alice.send(session.session_id, **answer)
    inherited = sent(api.requests[-1].body)
    assert [inherited[name] is None for name in ("tools", "thinking", "response_schema")] == [False] * 3
    none = {name: EMPTY[name] for name in ("tools", "thinking", "response_schema")}
    await alice.send(session.session_id, **answer, **none)
    assert [sent(api.requests[-1].body)[name] for name in none] == [None] * 3


async def test_a_chosen_tool_must_be_among_the_set_or_inherited_tools(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(ASKS)
    called = await alice.send(session.session_id, tools=[WEATHER])
    user, reply = called[0].turn_started.user_message_id, called[-1].turn_finished.message.message_id
    answer: dict[str, Any] = {"content": [result()], "parent_message_id": reply}
    for call, fields in (
        (alice.send(session.session_id, **answer, tool_choice=OTHER), ["options.tool_choice.name"]),
        (alice.send(session.session_id, **answer, tools=[], tool_choice=ANY), ["options.tool_choice.mode"]),
        (alice.send(session.session_id, tool_choice=ANY, parent_message_id=""), ["options.tool_choice.mode"]),
        (regenerate(alice, user, tool_choice=OTHER).rest(), ["options.tool_choice.name"]),
        (regenerate(alice, user, tools=[], tool_choice=NAMED).rest(), ["options.tool_choice.mode"]),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", fields)
    assert len(await alice.messages(session.session_id, all_branches=True)) == 2
    await regenerate(alice, user, tool_choice=NAMED).rest()
    assert api.requests[-1].body["tool_choice"] == {"type": "tool", "name": "weather"}
    await alice.send(session.session_id, **answer, tool_choice=ANY)
    assert api.requests[-1].body["tool_choice"] == {"type": "any"}


async def test_a_thinking_budget_must_be_below_the_effective_output_tokens(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    user = (await alice.send(session.session_id, thinking=THINKS))[0].turn_started.user_message_id
    refusal = await refused(regenerate(alice, user, max_output_tokens=2048).rest())
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == ["options.thinking.budget_tokens"]
    await regenerate(alice, user, max_output_tokens=2049).rest()
    await regenerate(alice, user, max_output_tokens=2048, thinking=ThinkingConfig()).rest()
    assert len(api.requests) == 3


async def test_violations_in_count_tokens_name_fields_from_its_own_request(alice: Caller) -> None:
    session = await alice.create_session()
    for options, field in (
        ({"tool_choice": ANY}, "message.options.tool_choice.mode"),
        ({"response_schema": "[]"}, "message.options.response_schema"),
        ({"tools": [WEATHER, WEATHER]}, "message.options.tools"),
    ):
        request = pb.CountTokensRequest(message=send_request(session.session_id, **options))
        refusal = await refused(alice.chat.CountTokens(request, metadata=alice.metadata))
        assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", [field])


@pytest.mark.parametrize(
    ("ending", "stop_reason", "partial"),
    [
        ("stall", "end_turn", True),
        ("drop", "end_turn", True),
        ("stop", "max_tokens", False),
        ("stop", "end_turn", False),
    ],
)
async def test_an_incomplete_reply_is_partial_in_every_response(
    alice: Caller, api: FakeMessagesApi, ending: str, stop_reason: str, partial: bool
) -> None:
    api.script.append(Reply(("Some ", "words"), ending=ending, stop_reason=stop_reason))
    session = await alice.create_session()
    call = alice.start(session.session_id)
    events = [await call.next(), await call.next()]
    if ending == "stall":
        await cancel(alice, events[0].turn_id)
    events += await call.rest()
    finished = events[-1].turn_finished
    assert (finished.status == turn_pb2.TURN_STATUS_COMPLETED, finished.message.partial) == (not partial, partial)
    assert (await followed(alice, events[0].turn_id))[-1] == events[-1]
    user, reply = await alice.messages(session.session_id)
    assert (user.partial, reply) == (False, finished.message)
    read = pb.GetMessageRequest(message_id=reply.message_id)
    assert (await alice.chat.GetMessage(read, metadata=alice.metadata)).message == reply
