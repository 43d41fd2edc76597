"""Events of replies whose fields are missing, null, late, or cut within a character."""

import json
from typing import Any

import pytest
from metamorphd import errors
from metamorphd.llm.interface import (
    ReplyCompaction,
    ReplyEvent,
    ReplyStop,
    ReplyText,
    ReplyThinking,
    ReplyThinkingEnd,
    ReplyToolUse,
)
from metamorphd.models.content import CompactionBlock, ToolUseBlock
from metamorphd.models.turn import StopReason

from tests.llm.claude import opened, outcome
from tests.llm.events import (
    FINAL,
    STOP,
    THINKING,
    TOOL,
    Event,
    block,
    content,
    delta,
    end,
    message_delta,
    read,
    said,
    start,
)
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Raw

TEXT = {"type": "text", "text": ""}
DELTA_TYPES = ["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "compaction_delta"]


def begun(content_block: object, index: object = 0) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": content_block}


def more(index: object = 0, **fields: object) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def without(name: str, event: Event) -> Event:
    return {field: value for field, value in event.items() if field != name}


async def whole(api: FakeMessagesApi, *events: Event, final: Event = FINAL) -> list[ReplyEvent]:
    """Returns the content of a reply of these events, which must be complete."""
    received, error = await read(api, start(), *events, final, STOP)
    assert error is None
    *blocks, last = content(received)
    assert isinstance(last, ReplyStop)
    return blocks


@pytest.mark.parametrize("kind", DELTA_TYPES)
async def test_a_delta_without_its_field_says_nothing(api: FakeMessagesApi, kind: str) -> None:
    name = "partial_json" if kind == "input_json_delta" else "content" if kind == "compaction_delta" else kind[:-6]
    blocks: dict[str, tuple[Event, Event]] = {
        "text_delta": (TEXT, {"text": "Hm"}),
        "thinking_delta": (THINKING, {"thinking": "Hm"}),
        "signature_delta": (THINKING, {"signature": "Hm"}),
        "input_json_delta": (TOOL, {"partial_json": "{}"}),
        "compaction_delta": ({"type": "compaction", "content": None}, {"content": "Hm"}),
    }
    kind_of_block, fields = blocks[kind]
    expected = await whole(api, begun(kind_of_block), more(type=kind, **fields), end())
    assert expected
    for nothing in ({}, {name: None}):
        said_twice = (more(type=kind, **nothing), more(type=kind, **fields), more(type=kind, **nothing))
        assert await whole(api, begun(kind_of_block), *said_twice, end()) == expected


@pytest.mark.parametrize("nothing", [None, [], [1], "text", 5, {}], ids=str)
async def test_a_delta_that_is_no_object_says_nothing(api: FakeMessagesApi, nothing: object) -> None:
    empty: Event = {"type": "content_block_delta", "index": 0, "delta": nothing}
    for event in (empty, without("delta", empty)):
        assert await whole(api, block(), said("a"), event, said("b"), end()) == [ReplyText(0, "a"), ReplyText(0, "b")]


@pytest.mark.parametrize("kind", [{}, {"type": None}, {"type": ["text_delta"]}], ids=str)
async def test_a_delta_or_a_block_without_a_type_has_that_of_its_field(api: FakeMessagesApi, kind: Event) -> None:
    assert await whole(api, block(), more(**kind, text="a"), end()) == [ReplyText(0, "a")]
    thought = (begun(THINKING), more(**kind, thinking="Hm"), more(**kind, signature="s"), end())
    shown, _, ended = await whole(api, *thought)
    assert isinstance(ended, ReplyThinkingEnd)
    assert (shown, ended.block.signature) == (ReplyThinking(0, "Hm"), "s")
    called = (begun({**TOOL, "type": None} | kind), more(**kind, partial_json='{"a": 1}'), end())
    assert await whole(api, *called) == [ReplyToolUse(0, ToolUseBlock("t1", "look", '{"a": 1}'))]
    assert await whole(api, begun({"text": "a", **kind}), said("b"), end()) == [ReplyText(0, "a"), ReplyText(0, "b")]


@pytest.mark.parametrize("nothing", [None, [], [1], "text", {}, {"type": None}, {"type": 5}], ids=str)
async def test_a_block_that_says_nothing_is_what_its_deltas_are(api: FakeMessagesApi, nothing: object) -> None:
    for event in (begun(nothing), without("content_block", begun(nothing))):
        assert await whole(api, event, said("a"), end()) == [ReplyText(0, "a")]
        thought = (delta("thinking_delta", "Hm"), delta("signature_delta", "s"))
        kinds = [type(each) for each in await whole(api, event, *thought, end())]
        assert kinds == [ReplyThinking, ReplyThinking, ReplyThinkingEnd]


async def test_text_after_the_end_of_its_block_still_belongs_to_it(api: FakeMessagesApi) -> None:
    late = (said("\ud83d"), said("\ude00"))
    for before in ((said("a"),), ()):
        blocks = await whole(api, block(), *before, end(), block(1), said("b", 1), *late, end(1))
        texts = {0: "", 1: ""}
        for event in blocks:
            assert isinstance(event, ReplyText)
            texts[event.block_index] += event.text
        assert sorted(texts.values()) == sorted(["a😀" if before else "😀", "b"])
    # Half a pair is not lost, wherever it is.
    assert await whole(api, block(), said("a"), end(), said("\ud83d")) == [ReplyText(0, "a"), ReplyText(0, "\ufffd")]


async def test_what_comes_after_the_end_of_other_blocks_is_ignored(api: FakeMessagesApi) -> None:
    late = (delta("thinking_delta", "late"), delta("signature_delta", "late"))
    signed = (begun(THINKING), delta("signature_delta", "s"), end())
    assert await whole(api, *signed, *late) == await whole(api, *signed)
    called = (begun(TOOL), delta("input_json_delta", "{}"), end())
    assert await whole(
        api, *called, delta("input_json_delta", ""), final=message_delta("tool_use", output_tokens=7)
    ) == [ReplyToolUse(0, ToolUseBlock("t1", "look", "{}"))]


@pytest.mark.parametrize(
    "call",
    [
        (begun(TOOL), end(), delta("input_json_delta", '{"a": 1}')),
        (begun({**TOOL, "name": None}), delta("input_json_delta", "{}"), end()),
        (begun(without("name", TOOL)), end()),
        (begun(None), delta("input_json_delta", "{}"), end()),
    ],
    ids=["a late input", "a null name", "no name", "nothing but an input"],
)
async def test_a_call_that_cannot_be_made_cuts_a_reply_off_that_waits_for_it(
    api: FakeMessagesApi, call: tuple[Event, ...]
) -> None:
    events, error = await read(api, start(), *call, message_delta("tool_use", output_tokens=7), STOP)
    assert type(error) is errors.UpstreamInterrupted
    assert not any(isinstance(event, ReplyStop) for event in events)
    events, error = await read(api, start(), *call, message_delta("max_tokens", output_tokens=7), STOP)
    assert (error, events[-1]) == (None, ReplyStop(StopReason.MAX_TOKENS))


@pytest.mark.parametrize(
    "nothing", [{"id": None}, {"id": ""}, {}, {"id": "t\ud83d"}, {"id": "t 1"}, {"id": "t" * 129}], ids=ascii
)
async def test_a_call_without_an_id_that_a_result_can_have_gets_one(api: FakeMessagesApi, nothing: Event) -> None:
    calls = await whole(api, *(event for n in (0, 1) for event in (begun(without("id", TOOL) | nothing, n), end(n))))
    ids = {event.block.tool_use_id for event in calls if isinstance(event, ReplyToolUse)}
    assert len(ids) == 2
    assert all(each.startswith("toolu_") for each in ids)


async def test_a_call_that_is_repeated_with_its_id_is_one_call(api: FakeMessagesApi) -> None:
    calls = [(begun(TOOL, index), delta("input_json_delta", "{}", index), end(index)) for index in (0, 0, 1)]
    other = (begun({**TOOL, "id": "t2"}, 2), end(2))
    assert await whole(api, *(event for call in (*calls, other) for event in call)) == [
        ReplyToolUse(0, ToolUseBlock("t1", "look", "{}")),
        ReplyToolUse(1, ToolUseBlock("t2", "look", "{}")),
    ]


async def test_half_a_pair_is_replaced_wherever_it_is(api: FakeMessagesApi) -> None:
    (call,) = await whole(api, begun({**TOOL, "name": "\ude00look"}), end())
    assert call == ReplyToolUse(0, ToolUseBlock("t1", "\ufffdlook", "{}"))
    for thought in (
        (begun(THINKING), delta("signature_delta", "s\ud83d")),
        (begun({**THINKING, "signature": "s\ud83d"}),),
    ):
        *_, signed = await whole(api, *thought, end())
        assert isinstance(signed, ReplyThinkingEnd)
        assert signed.block.signature == "s\ufffd"
    *_, redacted = await whole(api, begun({"type": "redacted_thinking", "data": "r\ud83d"}), end())
    assert isinstance(redacted, ReplyThinkingEnd)
    assert redacted.block.redacted == "r\ufffd"
    summary = {"type": "compaction", "content": "Owls\ud83d", "encrypted_content": "\ud83d"}
    (compacted,) = await whole(api, begun(summary), end())
    assert compacted == ReplyCompaction(0, CompactionBlock("Owls\ufffd", '{"encrypted_content": "\\ufffd"}'))


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": ""}], ids=str)
async def test_redacted_thinking_without_its_data_is_none(api: FakeMessagesApi, data: Event) -> None:
    redacted = begun({"type": "redacted_thinking", **data})
    assert await whole(api, redacted, end(), block(1), said("a", 1), end(1)) == [ReplyText(0, "a")]


async def test_null_does_not_replace_what_is_known_of_a_summary(api: FakeMessagesApi) -> None:
    parts = (more(type="compaction_delta", content="Owls"), more(type="compaction_delta", content=None, opaque="x"))
    blocks = await whole(api, begun({"type": "compaction", "content": None}), *parts, end())
    assert blocks == [ReplyCompaction(0, CompactionBlock("Owls", '{"opaque": "x"}'))]


@pytest.mark.parametrize("index", [None, "x", [0], {}, 0.5, "-1"], ids=str)
async def test_an_index_that_cannot_be_read_is_that_of_the_newest_block(api: FakeMessagesApi, index: object) -> None:
    events = (begun(TEXT), more(type="text_delta", text="a"), end(), begun(TEXT, 1), said("b", 1), end(1))
    expected = await whole(api, *events)
    assert expected == [ReplyText(0, "a"), ReplyText(1, "b")]
    assert await whole(api, *({**event, "index": index} for event in events)) == expected
    assert await whole(api, *(without("index", event) for event in events)) == expected
    for number in range(len(events)):
        some = [{**event, "index": index} if at == number else event for at, event in enumerate(events)]
        assert await whole(api, *some) == expected


@pytest.mark.parametrize("index", ["0", 0.0, False], ids=str)
async def test_an_index_may_be_written_in_other_ways(api: FakeMessagesApi, index: object) -> None:
    for event in ({**said("b"), "index": index}, said("b")):
        blocks = await whole(api, begun(TEXT, index), block(1), said("a", 1), event, end(1), {**end(), "index": index})
        assert blocks == [ReplyText(0, "a"), ReplyText(1, "b")]


@pytest.mark.parametrize("event", [{}, {"type": None}, {"type": 5}, {"type": ["message_stop"]}, {"x": 1}], ids=str)
async def test_an_event_without_a_type_is_ignored(api: FakeMessagesApi, event: Event) -> None:
    events = [start(), block(), said("a"), event, said("b"), end(), FINAL, STOP]
    api.default = Raw(b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events))
    async with opened(api) as claude:
        received, error = await outcome(claude)
    assert error is None
    assert content(received)[:-1] == [ReplyText(0, "a"), ReplyText(0, "b")]


UNREADABLE: list[tuple[Any, ...]] = [
    (said(5),),
    (said(["b"]),),
    (said("b", 9),),
    (begun(THINKING, 1), delta("thinking_delta", {"text": "b"}, 1), end(1)),
    (begun(THINKING, 1), delta("signature_delta", 5, 1), end(1)),
    (begun({"type": "thinking", "signature": 5}, 1), end(1)),
    (begun({"type": "text", "text": 5}, 1), end(1)),
    (begun({"type": "redacted_thinking", "data": [1]}, 1), end(1)),
    (begun({**TOOL, "name": 5}, 1), end(1)),
    (begun({**TOOL, "id": 5}, 1), end(1)),
    (begun(TOOL, 1), delta("input_json_delta", {"a": 1}, 1), end(1)),
    (begun({"type": "compaction", "content": 5}, 1), end(1)),
]


@pytest.mark.parametrize("events", UNREADABLE, ids=str)
async def test_what_is_there_but_cannot_be_read_cuts_a_reply_off(
    api: FakeMessagesApi, events: tuple[Event, ...]
) -> None:
    received, error = await read(api, start(), block(), said("a"), *events, end(), FINAL, STOP)
    assert type(error) is errors.UpstreamInterrupted
    assert content(received)[0] == ReplyText(0, "a")
    assert not any(isinstance(event, ReplyStop) for event in received)
