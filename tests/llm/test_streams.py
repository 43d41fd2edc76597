"""Streams as gateways and future versions of the API send them: incomplete, repeated, extended, unfinished."""

import json
from typing import Any

import pytest
from metamorphd import errors
from metamorphd.llm import claude as claude_module
from metamorphd.llm.interface import (
    ReplyCompaction,
    ReplyStop,
    ReplyText,
    ReplyThinking,
    ReplyThinkingEnd,
    ReplyToolUse,
    ReplyUsage,
)
from metamorphd.models.content import CompactionBlock, ToolUseBlock
from metamorphd.models.turn import StopDetails, StopReason
from metamorphd.models.usage import Usage

from tests.llm.claude import opened, outcome, prompt, text
from tests.llm.events import (
    FINAL,
    HELLO,
    LIMIT,
    PING,
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
    used,
)
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Raw, sse


async def test_partial_message_deltas_are_merged(api: FakeMessagesApi) -> None:
    first = message_delta("max_tokens", output_tokens=7)
    second: Event = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 12}}
    third: Event = {"type": "message_delta", "delta": None, "usage": None}
    events, error = await read(api, start(), *HELLO, first, second, third, {"type": "message_delta"}, STOP)
    assert (content(events), error) == ([ReplyText(0, "Hello"), ReplyStop(StopReason.MAX_TOKENS)], None)
    assert used(events) == ReplyUsage(Usage(12, 7))


NO_STOP_REASONS: list[object] = [None, "", 5, [], {}, ["end_turn"]]


@pytest.mark.parametrize(
    "later",
    [
        *[{"delta": {"stop_reason": reason}} for reason in NO_STOP_REASONS],
        *[{"delta": delta} for delta in (None, [], [1], "end_turn", 5)],
        {"delta": {"stop_reason": "", "stop_details": [5]}},
    ],
    ids=str,
)
async def test_what_is_no_stop_reason_replaces_none(api: FakeMessagesApi, later: Event) -> None:
    for before, after in (((), FINAL), ((FINAL,), later)):
        usage = {"input_tokens": 12}
        events, error = await read(
            api, start(), *HELLO, *before, {"type": "message_delta", **later, "usage": usage}, {**FINAL, **after}, STOP
        )
        assert (content(events), error) == ([ReplyText(0, "Hello"), ReplyStop(StopReason.END_TURN)], None)
        assert used(events) == ReplyUsage(Usage(12, 7))


@pytest.mark.parametrize(
    ("counts", "kept", "agreed"),
    [
        ((7, 5), 7, False),
        ((7, 5, 6), 7, False),
        ((7, 5, None), 7, False),
        ((7, 5, "9"), 7, False),
        ((7, 5, 0), 7, False),
        ((7, 5, 7), 7, True),
        ((7, 5, 9), 9, True),
        ((5, 7), 7, True),
        ((7, 0), 7, True),
    ],
    ids=str,
)
async def test_a_later_smaller_output_is_not_believed(
    api: FakeMessagesApi, counts: tuple[object, ...], kept: int, agreed: bool
) -> None:
    reports = [message_delta(output_tokens=count) for count in counts]
    events, error = await read(api, start(), *HELLO, *reports, STOP)
    assert (error, used(events).usage, used(events).unreported_reads) == (None, Usage(11, kept), 0)
    assert (used(events).most_output_tokens is None) is (agreed and isinstance(counts[-1], int))


async def test_an_output_that_is_less_than_its_provisional_number_is_not_believed(api: FakeMessagesApi) -> None:
    events, error = await read(api, start({"input_tokens": 11, "output_tokens": 50}), *HELLO, FINAL, STOP)
    assert (error, used(events)) == (None, ReplyUsage(Usage(11, 50), 50))
    # A start that is repeated is provisional too.
    events, _ = await read(api, start(), *HELLO, FINAL, start({"input_tokens": 3, "output_tokens": 1}), STOP)
    assert used(events) == ReplyUsage(Usage(11, 7))
    # More than was said to be there may still be received.
    parts = (message_delta(None, output_tokens=7), message_delta(None, output_tokens=5))
    events, _ = await read(api, start(), *HELLO, *parts, block(1), said("x" * 20, 1))
    assert used(events) == ReplyUsage(Usage(11, 7), 25)


@pytest.mark.parametrize(
    ("later", "kept", "agreed"),
    [
        ({"input_tokens": 4}, Usage(11, 7, 5), False),
        ({"input_tokens": 4, "cache_read_input_tokens": 11}, Usage(11, 7, 5), False),
        ({"cache_read_input_tokens": 2, "input_tokens": "4"}, Usage(11, 7, 5), False),
        ({"input_tokens": 4, "cache_read_input_tokens": 12}, Usage(4, 7, 12), True),
        ({"input_tokens": 12}, Usage(12, 7, 5), True),
        ({"input_tokens": 4, "cache_creation_input_tokens": 7}, Usage(4, 7, 5, 7), True),
    ],
    ids=str,
)
async def test_input_that_becomes_less_is_not_believed_unless_more_of_it_was_cached(
    api: FakeMessagesApi, later: Event, kept: Usage, agreed: bool
) -> None:
    begin = start({"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 1})
    for more in ((), (message_delta(None, output_tokens=7),)):
        events, error = await read(api, begin, *HELLO, message_delta(**later, output_tokens=7), *more, STOP)
        assert (error, used(events).usage) == (None, kept)
        assert (used(events).most_output_tokens is None) is agreed
    events, _ = await read(
        api, begin, *HELLO, message_delta(**later), message_delta(input_tokens=99, output_tokens=7), STOP
    )
    assert used(events).most_output_tokens is None


ZEROS = {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}


async def test_zeros_in_place_of_omitted_counts_replace_none(api: FakeMessagesApi) -> None:
    begin = start({"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 1})
    final = message_delta(**ZEROS, output_tokens=7)
    for more in ((), (message_delta(None, **ZEROS, output_tokens=0),), (message_delta(None, output_tokens=0),)):
        events, error = await read(api, begin, *HELLO, final, *more, STOP)
        assert (error, used(events)) == (None, ReplyUsage(Usage(11, 7, 5)))
    # Here 0 is a number: all was read from the cache.
    events, _ = await read(
        api, begin, *HELLO, message_delta(**(ZEROS | {"cache_read_input_tokens": 16}), output_tokens=7)
    )
    assert used(events) == ReplyUsage(Usage(0, 7, 16))


async def test_details_of_a_refusal_are_merged(api: FakeMessagesApi) -> None:
    def details(**texts: object) -> Event:
        return {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": texts}, "usage": None}

    parts = (details(category="cyber"), details(category=None, explanation="No\ud83d"), details())
    events, error = await read(api, start(), *parts, STOP)
    assert (error, events[-1]) == (None, ReplyStop(StopReason.REFUSAL, StopDetails("cyber", "No\ufffd")))


UNREAD: Any = {"output_tokens": 1}
BAD_COUNTS: list[Any] = [None, "7", -1, 2**63, 1.5, True, [7], {}]


@pytest.mark.parametrize(
    "begin",
    [
        {"type": "message_start"},
        {"type": "message_start", "message": None},
        {"type": "message_start", "message": {"usage": None}},
        start(UNREAD),
        start([5]),
        start("none"),
        start({"input_tokens": 0, "output_tokens": 1}),
        *(start({"input_tokens": bad}) for bad in BAD_COUNTS),
        *(start({"input_tokens": 5, "cache_read_input_tokens": bad}) for bad in BAD_COUNTS[1:]),
    ],
    ids=str,
)
async def test_unusable_input_usage_is_unreported_and_fails_nothing(api: FakeMessagesApi, begin: Event) -> None:
    events, error = await read(api, begin, *HELLO, FINAL, STOP)
    assert (text(events), error, events[-1]) == ("Hello", None, ReplyStop(StopReason.END_TURN))
    assert (used(events).unreported_reads, used(events).most_output_tokens) == (1, 7)
    # It may come late.
    events, _ = await read(
        api, begin, *HELLO, FINAL, message_delta(None, input_tokens=9, cache_read_input_tokens=2), STOP
    )
    assert used(events) == ReplyUsage(Usage(9, 7, 2))


@pytest.mark.parametrize(
    "final",
    [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": None},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": [7]},
        *(message_delta(output_tokens=bad) for bad in BAD_COUNTS),
        message_delta(output_tokens=0),
    ],
    ids=str,
)
async def test_unusable_output_usage_is_bounded_by_what_was_received(api: FakeMessagesApi, final: Event) -> None:
    events, error = await read(api, start(), *HELLO, final, STOP)
    assert (text(events), error, events[-1]) == ("Hello", None, ReplyStop(StopReason.END_TURN))
    assert (used(events).unreported_reads, used(events).most_output_tokens) == (0, len("Hello"))


@pytest.mark.parametrize(
    ("blocks", "most"),
    [
        ((block(),), 1),
        ((block(), said("é😀")), 6),
        ((block(), said("x" * 60), said("x" * 60)), LIMIT),
        ((block(0, THINKING),), LIMIT),
        ((block(0, THINKING), delta("thinking_delta", "Hm")), LIMIT),
        ((block(0, THINKING), end(), block(1), said("a", 1)), LIMIT),
        ((block(0, THINKING), delta("thinking_delta", "Hm"), delta("signature_delta", "s" * 40)), 42),
        ((block(0, {"type": "redacted_thinking", "data": "r" * 30}),), 30),
        ((block(0, TOOL), delta("input_json_delta", '{"a": ')), len(json.dumps(TOOL)) + 6),
        (
            (block(0, {"type": "new"}), delta("new_delta", "abc")),
            len(json.dumps({"type": "new"})) + len(json.dumps({"type": "new_delta", "new": "abc"})),
        ),
        ((*HELLO, FINAL, block(1), said("more!", 1)), 10),
    ],
    ids=str,
)
async def test_what_was_received_bounds_the_output_of_a_reply_that_is_cut(
    api: FakeMessagesApi, blocks: tuple[Event, ...], most: int
) -> None:
    events, error = await read(api, start(), *blocks)
    assert type(error) is errors.UpstreamInterrupted
    assert (used(events).most_output_tokens, used(events).unreported_reads) == (most, 0)


async def test_a_reply_without_anything_in_it_may_have_used_no_output(api: FakeMessagesApi) -> None:
    events, error = await read(api, start(), message_delta(output_tokens=0), STOP)
    assert (error, used(events)) == (None, ReplyUsage(Usage(11, 0)))


async def test_the_usage_precedes_the_events_that_it_includes(api: FakeMessagesApi) -> None:
    api.default = Raw(sse(start(), *HELLO, FINAL, STOP))
    async with opened(api) as claude:
        batches = [batch async for batch in claude.generate(prompt())]
    assert all(isinstance(batch[0], ReplyUsage) for batch in batches)
    assert batches[-1][0] == ReplyUsage(Usage(11, 7))


async def test_a_summary_that_is_not_reported_is_read_and_written_once_more(api: FakeMessagesApi) -> None:
    summary = {"type": "compaction", "content": None}
    delivered = {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "S" * 20}}
    whole = (block(0, summary), delivered, end(), block(1), said("Hello", 1), end(1))
    events, _ = await read(api, start(), block(0, summary))
    assert (used(events).most_output_tokens, used(events).unreported_reads) == (1 + LIMIT, 1)
    for iterations in (None, "none", [{"type": "compaction", "input_tokens": -1}], [{"type": "message"}, 5]):
        events, error = await read(api, start(), *whole, message_delta(output_tokens=7, iterations=iterations), STOP)
        assert (error, used(events)) == (None, ReplyUsage(Usage(11, 7), 27, 1))
    reported = [{"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": None}]
    events, error = await read(api, start(), *whole, message_delta(output_tokens=7, iterations=reported), STOP)
    assert (error, used(events)) == (None, ReplyUsage(Usage(111, 27)))


@pytest.mark.parametrize(
    ("later", "kept", "agreed"),
    [
        ([(40, 20)], Usage(111, 27), False),
        ([(100, 2)], Usage(111, 27), False),
        ([(40, 20), (100, 20)], Usage(111, 27), True),
        ([(120, 30)], Usage(131, 37), True),
        ([(0, 0)], Usage(111, 27), False),
        ([], Usage(111, 27), True),
    ],
    ids=str,
)
async def test_the_usage_of_summaries_that_becomes_less_is_not_believed(
    api: FakeMessagesApi, later: list[tuple[int, int]], kept: Usage, agreed: bool
) -> None:
    summary = {"type": "compaction", "content": "Owls"}
    reports = [
        message_delta(
            output_tokens=7, iterations=[{"type": "compaction", "input_tokens": given, "output_tokens": written}]
        )
        for given, written in [(100, 20), *later]
    ]
    events, error = await read(api, start(), block(0, summary), end(), *reports, STOP)
    assert (error, used(events).usage) == (None, kept)
    assert (used(events).most_output_tokens is None) is agreed


async def test_a_summary_may_come_with_the_beginning_of_its_block(api: FakeMessagesApi) -> None:
    summary = {"type": "compaction", "content": "Owls", "encrypted_content": "opaque", "id": None}
    events, error = await read(api, start(), block(0, summary), end(), block(1), said("Hello", 1), end(1), FINAL, STOP)
    assert error is None
    assert content(events)[0] == ReplyCompaction(0, CompactionBlock("Owls", '{"encrypted_content": "opaque"}'))


PAIRS = [
    (["a\ud83d", "\ude00b"], "a😀b"),
    (["\ud83d", "", "\ude00"], "😀"),
    (["a\ud83d", "b"], "a\ufffdb"),
    (["\ude00a"], "\ufffda"),
    (["\ud83d\ud83d", "\ude00"], "\ufffd😀"),
    (["a\ud83d"], "a\ufffd"),
    (["\ud83d"], "\ufffd"),
]


@pytest.mark.parametrize(("pieces", "whole"), PAIRS, ids=ascii)
async def test_halves_of_pairs_are_joined_across_deltas_or_replaced(
    api: FakeMessagesApi, pieces: list[str], whole: str
) -> None:
    thought = [delta("thinking_delta", piece, 1) for piece in pieces]
    written = [delta("input_json_delta", piece, 2) for piece in ('{"a": "', *pieces)]
    events, error = await read(
        api,
        start(),
        *(block(), *map(said, pieces), end()),
        *(block(1, THINKING), *thought, end(1)),
        *(block(2, TOOL), *written, end(2)),
        *(FINAL, STOP),
    )
    assert (text(events), error) == (whole, None)
    assert "".join(event.text for event in events if isinstance(event, ReplyThinking)) == whole
    (call,) = [event.block for event in events if isinstance(event, ReplyToolUse)]
    assert call.input == '{"a": "' + whole


async def test_a_tool_input_may_be_cut_within_an_escape(api: FakeMessagesApi) -> None:
    written = [delta("input_json_delta", piece) for piece in ('{"a": "\\ud8', "3d\\u", 'de00"}')]
    events, error = await read(
        api, start(), block(0, TOOL), *written, end(), message_delta("tool_use", output_tokens=7), STOP
    )
    assert error is None
    assert content(events) == [
        ReplyToolUse(0, ToolUseBlock("t1", "look", '{"a": "\\ud83d\\ude00"}')),
        ReplyStop(StopReason.TOOL_USE),
    ]


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        (r'{"a": "\ud83d"}', r'{"a": "\ufffd"}'),
        (r'{"a": "\uDE00\ud83d\ude00"}', r'{"a": "\ufffd\ud83d\ude00"}'),
        (r'{"a": "\ud83d\n\u00e9"}', r'{"a": "\ufffd\n\u00e9"}'),
        (r'{"a": "\\ud83d"}', r'{"a": "\\ud83d"}'),
    ],
)
async def test_half_an_escaped_pair_in_a_tool_input_is_replaced(api: FakeMessagesApi, written: str, whole: str) -> None:
    begun = {**TOOL, "input": json.loads(written)}
    for call in ((block(0, TOOL), delta("input_json_delta", written)), (block(0, begun),)):
        events, error = await read(api, start(), *call, end(), message_delta("tool_use", output_tokens=7), STOP)
        assert error is None
        (tool,) = [event.block for event in events if isinstance(event, ReplyToolUse)]
        assert json.loads(tool.input) == json.loads(whole)


async def test_invalid_utf_8_is_replaced(api: FakeMessagesApi) -> None:
    body = sse(start(), block(), said("a?b"), end(), FINAL, STOP).replace(b"a?b", b"a\xffb")
    api.default = Raw(body)
    async with opened(api) as claude:
        events, error = await outcome(claude)
    assert (text(events), error) == ("a\ufffdb", None)


async def test_repeated_starts_and_stops_of_blocks_are_ignored(api: FakeMessagesApi) -> None:
    events, error = await read(
        api, start(), start(), block(), said("a"), block(), said("b"), start(), end(), end(), end(5), FINAL, STOP, STOP
    )
    assert (content(events), error) == (
        [ReplyText(0, "a"), ReplyText(0, "b"), ReplyStop(StopReason.END_TURN)],
        None,
    )


@pytest.mark.parametrize("message", [None, [1], {}, {"id": None}, {"usage": {"input_tokens": 12}}], ids=str)
async def test_a_repeated_start_may_be_incomplete(api: FakeMessagesApi, message: Any) -> None:
    again: Event = {"type": "message_start", "message": message}
    for first, second in ((start(), again), (again, start())):
        events, error = await read(api, first, block(), said("Hello"), second, end(), FINAL, STOP)
        assert (text(events), error) == ("Hello", None)
        assert used(events).most_output_tokens is None


async def test_another_message_within_a_reply_cuts_it_off(api: FakeMessagesApi) -> None:
    another = start(id="msg_2")
    events, error = await read(
        api, start(), another, block(), said("a"), another, start(id="msg_3"), end(), FINAL, STOP
    )
    assert (text(events), type(error)) == ("a", errors.UpstreamInterrupted)


@pytest.mark.parametrize("ending", ["end", "drop", "stall", "ping"])
async def test_a_reply_that_lacks_only_its_last_event_is_complete(
    api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(claude_module, "LAST_EVENT_SECONDS", 0.05)
    events, error = await read(api, start(), *HELLO, FINAL, ending=ending)
    assert (content(events), error) == ([ReplyText(0, "Hello"), ReplyStop(StopReason.END_TURN)], None)
    assert used(events) == ReplyUsage(Usage(11, 7))


async def test_what_follows_a_whole_reply_does_not_fail_it(api: FakeMessagesApi) -> None:
    for last in (b"data: [DONE]\n\n", sse(STOP) + b"data: [DONE]\n\n"):
        api.default = Raw(sse(start(), *HELLO, FINAL) + last)
        async with opened(api) as claude:
            events, error = await outcome(claude)
        assert (content(events), error) == ([ReplyText(0, "Hello"), ReplyStop(StopReason.END_TURN)], None)


async def test_an_error_after_the_stop_reason_is_an_error(api: FakeMessagesApi) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error"}}
    events, error = await read(api, start(), *HELLO, FINAL, overloaded)
    assert (text(events), type(error)) == ("Hello", errors.UpstreamOverloaded)


@pytest.mark.parametrize(
    "unfinished",
    [
        (start(), block(), said("Hello"), FINAL),
        (start(), *HELLO),
        (start(), *HELLO, message_delta(None, output_tokens=7)),
        (start(), block(0, TOOL), delta("input_json_delta", '{"a'), end(), message_delta("tool_use", output_tokens=7)),
    ],
    ids=["an open block", "no message_delta", "no stop reason", "an incomplete tool call"],
)
async def test_a_reply_that_lacks_more_than_its_last_event_is_interrupted(
    api: FakeMessagesApi, unfinished: tuple[Event, ...]
) -> None:
    events, error = await read(api, *unfinished)
    assert type(error) is errors.UpstreamInterrupted
    assert not any(isinstance(event, ReplyStop) for event in events)


async def test_content_after_the_stop_reason_belongs_to_the_reply(
    api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_module, "LAST_EVENT_SECONDS", 0.0)
    more = (block(1), said(" again", 1), end(1))
    events, error = await read(api, start(), *HELLO, FINAL, *more, message_delta(None, output_tokens=9), STOP)
    assert (text(events), error, events[-1]) == ("Hello again", None, ReplyStop(StopReason.END_TURN))
    assert used(events) == ReplyUsage(Usage(11, 9))


WHOLE_BLOCK = (block(1), said(" and", 1), end(1))


@pytest.mark.parametrize(
    "more",
    [
        ((block(1), said(" and", 1)), (said(" again", 1), end(1))),
        (WHOLE_BLOCK, (block(2), said(" again", 2), end(2))),
        ((*WHOLE_BLOCK, FINAL), (block(2), said(" again", 2), end(2))),
    ],
    ids=["a block in two parts", "two blocks", "two blocks and their usage"],
)
async def test_content_after_the_stop_reason_restarts_the_wait_for_the_last_event(
    api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch, more: tuple[tuple[Event, ...], ...]
) -> None:
    monkeypatch.setattr(claude_module, "LAST_EVENT_SECONDS", 0.6)
    later = tuple(sse(*events) for events in more)
    events, error = await read(api, start(), *HELLO, FINAL, later=later, pause=0.4, ending="stall")
    assert (text(events), error, events[-1]) == ("Hello and again", None, ReplyStop(StopReason.END_TURN))


async def test_blocks_that_are_open_at_the_end_are_ended(api: FakeMessagesApi) -> None:
    thought = (block(0, THINKING), delta("thinking_delta", "Hm"), delta("signature_delta", "sig"))
    called = (block(1, TOOL), delta("input_json_delta", "{}", 1))
    events, error = await read(api, start(), *thought, *called, message_delta("tool_use", output_tokens=7), STOP)
    assert error is None
    _, last, ended, *others = content(events)
    assert (last, type(ended)) == (ReplyThinking(0, ""), ReplyThinkingEnd)
    assert others == [
        ReplyToolUse(1, ToolUseBlock("t1", "look", "{}")),
        ReplyStop(StopReason.TOOL_USE),
    ]


async def test_unknown_events_blocks_deltas_and_fields_are_ignored(api: FakeMessagesApi) -> None:
    events, error = await read(
        api,
        {"type": "new_event", "index": "x"},
        start(new_field=5),
        PING,
        *(block(0, {"type": "new_block", "text": "a"}), said("b"), delta("new_delta", "c"), end()),
        *(block(1), delta("citations_delta", {}, 1), delta("thinking_delta", "d", 1), said("Hello", 1), end(1)),
        delta("new_delta", "e", 9),
        end(9),
        FINAL,
        STOP,
    )
    assert (content(events), error) == ([ReplyText(0, "Hello"), ReplyStop(StopReason.END_TURN)], None)


@pytest.mark.parametrize(
    "frame",
    [
        b'event: error\ndata: {"type":"error","error":{"message":"the provider\'s own words"}}',
        b'event: error\ndata: {"type":"error","error":"the provider\'s own words"}',
        b'event: error\ndata: {"type":"error","error":{"type":5}}',
        b'data: {"type":"error"}',
        b'data: {"error":{"message":"the provider\'s own words","code":500}}',
        b'event: error\ndata: {"message":"the provider\'s own words"}',
        b"event: error\ndata: the provider's own words",
        b'data: {"message":"the provider\'s own words"}',
        b'data: {"detail":"the provider\'s own words","type":null}',
        b'data: {"type":"error","error":{"type":""}}',
        b'event: error\ndata: "the provider\'s own words"',
        b"event: error\ndata: null",
        b"event: error\ndata: [1]",
    ],
    ids=lambda frame: str(frame)[:70],
)
async def test_an_error_event_without_a_type_has_its_own_reason(api: FakeMessagesApi, frame: bytes) -> None:
    api.default = Raw(sse(start(), block(), said("Hello")) + frame + b"\n\n")
    async with opened(api) as claude:
        events, error = await outcome(claude)
    assert (text(events), type(error)) == ("Hello", errors.UpstreamFailed)
    assert "provider's own words" not in str(error)


@pytest.mark.parametrize(
    "frame",
    [
        b'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n',
        b'event: error\ndata: {"type":"overloaded_error","message":"x"}\n\n',
        b'data: {"type":"overloaded_error","message":"x"}\n\n',
        b'data: {"error":{"type":"overloaded_error"}}\n\n',
    ],
)
async def test_an_error_event_may_have_its_name_and_its_type_elsewhere(api: FakeMessagesApi, frame: bytes) -> None:
    api.default = Raw(frame)
    async with opened(api) as claude:
        _, error = await outcome(claude)
    assert type(error) is errors.UpstreamOverloaded


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [("text/html; charset=utf-8", "text/html"), ("application/json", "application/json"), ("secret json", "unknown")],
)
async def test_an_answer_that_is_no_stream_is_named_by_its_type(
    api: FakeMessagesApi, content_type: str, shown: str
) -> None:
    _, error = await read(api, start(), *HELLO, FINAL, STOP, content_type=content_type)
    assert type(error) is errors.UpstreamNotAStream
    assert error.metadata == {"content_type": shown}


PAGE = b"<!DOCTYPE html><p>Sign in</p>\n\ndata: x\n\n"
MESSAGE = b'{"type": "message", "content": [{"type": "text", "text": "Hello"}]}'


@pytest.mark.parametrize("content_type", ["", "text/event-stream", "text/plain", "application/octet-stream"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n\n \t"])
@pytest.mark.parametrize(
    ("document", "shown"),
    [(PAGE, "text/html"), (MESSAGE, "application/json"), (b"[1]", "application/json")],
    ids=["page", "message", "list"],
)
async def test_a_document_is_recognized_whatever_its_headers_say(
    api: FakeMessagesApi, content_type: str, before: bytes, document: bytes, shown: str
) -> None:
    for body, later in ((before + document, ()), (before, (document,))):
        api.default = Raw(body, content_type, later=later, pause=0.05, ending="stall")
        async with opened(api) as claude:
            events, error = await outcome(claude)
        assert (events, type(error)) == ([], errors.UpstreamNotAStream)
        assert error is not None
        assert error.metadata == {"content_type": shown}


@pytest.mark.parametrize("content_type", ["", "text/event-stream", "text/plain"])
@pytest.mark.parametrize("text", [b"upstream connect error", b"Bad gateway\n", b"error code: 1015", b"idle\r\nagain"])
async def test_text_without_an_event_is_no_stream(api: FakeMessagesApi, content_type: str, text: bytes) -> None:
    api.default = Raw(text[:3], content_type, later=(text[3:],), pause=0.05)
    async with opened(api) as claude:
        events, error = await outcome(claude)
    assert (events, type(error)) == ([], errors.UpstreamNotAStream)
    assert error is not None
    assert error.metadata == {"content_type": "text/plain"}


@pytest.mark.parametrize("begun", [b"", b"\n", b": hello", b"data: {", b"data", b"event: ping\n", b": a\n\n: b\n"])
async def test_a_stream_that_ends_before_its_first_event_is_interrupted(api: FakeMessagesApi, begun: bytes) -> None:
    for ending in ("end", "drop"):
        api.default = Raw(begun, ending=ending)
        async with opened(api) as claude:
            events, error = await outcome(claude)
        assert (events, type(error)) == ([], errors.UpstreamInterrupted)


@pytest.mark.parametrize("before", [b"\n\n", b"\r\n", b": hello\n\n", b"\ndata:\n\n"])
async def test_a_stream_may_begin_with_nothing(api: FakeMessagesApi, before: bytes) -> None:
    api.default = Raw(before, later=(sse(start(), *HELLO, FINAL, STOP),), pause=0.05)
    async with opened(api) as claude:
        events, error = await outcome(claude)
    assert (text(events), error) == ("Hello", None)


async def test_an_event_that_is_nested_too_deeply_cuts_a_reply_off(api: FakeMessagesApi) -> None:
    api.default = Raw(sse(start(), *HELLO) + b"data: " + b"[" * 200_000 + b"\n\n")
    async with opened(api) as claude:
        events, error = await outcome(claude)
    assert (text(events), type(error)) == ("Hello", errors.UpstreamInterrupted)


@pytest.mark.parametrize("content_type", ["", "text/event-stream;charset=utf-8", "text/plain"])
async def test_a_stream_may_have_other_types(api: FakeMessagesApi, content_type: str) -> None:
    events, error = await read(api, start(), *HELLO, FINAL, STOP, content_type=content_type)
    assert (text(events), error) == ("Hello", None)


async def test_a_redirect_is_not_followed(api: FakeMessagesApi) -> None:
    async with FakeMessagesApi() as elsewhere:
        _, error = await read(api, status=307, headers=(("location", f"{elsewhere.base_url}/v1/messages"),))
        assert (type(error), elsewhere.requests, len(api.requests)) == (errors.UpstreamRedirected, [], 1)
