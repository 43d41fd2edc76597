"""What the chosen model can do decides which options are accepted."""

from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2, message_pb2
from metamorph_client.chat.v1.generation_pb2 import ThinkingConfig, ToolChoice

from tests.support.caller import Caller, text_block
from tests.support.catalogs import entry, written
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.media import FILES
from tests.support.refusal import refused
from tests.support.serving import asking
from tests.support.tools import ASKS, WEATHER, result
from tests.support.turns import regenerate

OPUS, SONNET, HAIKU, OLD = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-sonnet-4-5"
ENABLED = ThinkingConfig(mode=generation_pb2.THINKING_MODE_ENABLED, budget_tokens=2048)
DISABLED = ThinkingConfig(mode=generation_pb2.THINKING_MODE_DISABLED)
ADAPTIVE = ThinkingConfig(mode=generation_pb2.THINKING_MODE_ADAPTIVE)
BETWEEN = ThinkingConfig(mode=generation_pb2.THINKING_MODE_BETWEEN_TOOLS)
ANY = ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_ANY)


@pytest.mark.parametrize(
    ("model", "options", "field"),
    [
        (SONNET, {"thinking": ENABLED}, "thinking.mode"),
        (SONNET, {"thinking": DISABLED}, "thinking.mode"),
        (OPUS, {"thinking": BETWEEN}, "thinking.mode"),
        (OLD, {"thinking": ADAPTIVE}, "thinking.mode"),
        (OLD, {"effort": generation_pb2.EFFORT_LOW}, "effort"),
        (SONNET, {"tools": [WEATHER], "tool_choice": ANY}, "tool_choice.mode"),
        (OLD, {"tools": [WEATHER], "tool_choice": ANY, "thinking": ENABLED}, "tool_choice.mode"),
    ],
)
@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_an_option_that_the_model_refuses_is_refused_before_anything_is_stored(
    alice: Caller, api: FakeMessagesApi, model: str, options: dict[str, Any], field: str
) -> None:
    session = await alice.create_session(model=model)
    refusal = await refused(alice.send(session.session_id, **options))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == [f"options.{field}"]
    assert (await alice.messages(session.session_id), api.requests) == ([], [])


@pytest.mark.parametrize(
    ("model", "options", "sent"),
    [
        (SONNET, {}, {"thinking": {"type": "adaptive", "display": "summarized"}}),
        (SONNET, {"thinking": BETWEEN}, {"thinking": {"type": "between_tools"}}),
        (OPUS, {"effort": generation_pb2.EFFORT_XHIGH}, {"output_config": {"effort": "xhigh"}}),
        (OLD, {}, {"thinking": None}),
        (OLD, {"thinking": ENABLED}, {"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "summarized"}}),
        (OLD, {"tools": [WEATHER], "tool_choice": ANY}, {"tool_choice": {"type": "any"}}),
    ],
)
@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_an_option_that_the_model_accepts_is_sent(
    alice: Caller, api: FakeMessagesApi, model: str, options: dict[str, Any], sent: dict[str, Any]
) -> None:
    session = await alice.create_session(model=model)
    await alice.send(session.session_id, **options)
    assert {name: api.requests[0].body.get(name) for name in sent} == sent


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_an_option_that_was_kept_is_dropped_if_the_model_does_not_accept_it(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(model=OLD)
    api.script.append(ASKS)
    asked = (await alice.send(session.session_id, tools=[WEATHER], thinking=ENABLED))[0].turn_started.user_message_id
    await alice.send(session.session_id, content=[result()], model=OPUS)
    assert api.requests[-1].body["thinking"]["type"] == "adaptive"
    assert api.requests[-1].body["tools"][0]["name"] == "weather"
    await regenerate(alice, asked, model=SONNET).rest()
    assert api.requests[-1].body["thinking"]["type"] == "adaptive"
    refusal = await refused(regenerate(alice, asked, model=SONNET, thinking=ENABLED).rest())
    assert refusal.fields == ["options.thinking.mode"]


async def test_a_model_that_reads_no_images_is_sent_none(api: FakeMessagesApi, tmp_path: Path) -> None:
    can: dict[str, Any] = {"thinking": [], "efforts": []} | dict.fromkeys(
        ("thinks_by_default", "forced_tool_choice", "images", "documents", "response_schema"), False
    )
    catalog = written(tmp_path, entry(model="sees"), entry(model="reads", capabilities=can))
    picture = message_pb2.ContentBlock(image=message_pb2.ImageBlock(media_type="image/png", data=FILES["image/png"]))
    async with asking(api, tmp_path, model_catalog=catalog, default_model="sees") as running:
        alice = running.caller()
        session = await alice.create_session()
        content = [text_block("Look"), picture]
        refusal = await refused(alice.send(session.session_id, content=content, model="reads"))
        assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content[1]"])
        await alice.send(session.session_id, content=content)
        await alice.send(session.session_id, model="reads")
    types = [block["type"] for message in api.requests[-1].body["messages"] for block in message["content"]]
    assert types == ["text", "text", "text", "text"]


async def test_models_are_listed_with_what_they_can_do(alice: Caller) -> None:
    listed = (await alice.chat.ListModels(pb.ListModelsRequest(), metadata=alice.metadata)).models
    can = {model.model: model.capabilities for model in listed}
    assert list(can[SONNET].thinking_modes) == [ADAPTIVE.mode, BETWEEN.mode]
    assert list(can[OLD].thinking_modes) == [ENABLED.mode, DISABLED.mode]
    assert (can[OPUS].thinks_by_default, can[OLD].thinks_by_default) == (True, False)
    assert (can[OPUS].forced_tool_choice, can[OLD].forced_tool_choice) == (False, True)
    assert list(can[HAIKU].efforts) == generation_pb2.Effort.values()[1:]
    assert list(can[OLD].efforts) == []
    assert all(each.images and each.documents and each.response_schema for each in can.values())
    assert (can[SONNET].attachments, can[OLD].attachments) == (600, 100)
    assert (can[SONNET].document_pages, can[OLD].document_pages) == (600, 100)
    assert (can[SONNET].summaries, can[OLD].summaries) == (True, False)
