"""Replies of thousands of blocks, and blocks of thousands of deltas: what each event costs, and what is held."""

import time
from collections.abc import Iterable

import pytest
from metamorphd.llm.interface import ReplyEvent, ReplyStop, ReplyThinkingEnd, ReplyToolUse
from metamorphd.llm.prefix import Prefix
from metamorphd.llm.reply import Reply
from metamorphd.models.content import CONTENT_BYTES
from metamorphd.models.turn import StopReason

from tests.llm.events import THINKING, TOOL, Event, block, delta, end, start

TEXT = {"type": "text", "text": ""}
MANY = 8_000
# Ten times as much as it takes, and a fifth of what it takes if every event looks at all blocks.
SECONDS = 2.5
LARGE = "x" * (CONTENT_BYTES // 4)


def read(events: Iterable[Event]) -> tuple[Reply, list[ReplyEvent]]:
    """Returns what is read of these events, up to the end of the reply, when the usage is asked for at each."""
    reply = Reply(prefix=Prefix(b""), max_output_tokens=1000)
    received: list[ReplyEvent] = []
    for event in (start(), *events):
        received += reply.read(event)
        assert reply.usage
        if reply.complete:
            break
    return reply, received


@pytest.mark.parametrize(
    ("content_block", "more"),
    [
        (TEXT, ("text_delta", "a")),
        (THINKING, ("signature_delta", "a")),
        (TOOL, ("input_json_delta", "{}")),
    ],
)
def test_blocks_that_never_end_cost_as_much_as_their_number(content_block: Event, more: tuple[str, str]) -> None:
    began = time.process_time()
    reply, _ = read(event for index in range(MANY) for event in (block(index, content_block), delta(*more, index)))
    assert reply.blocks == MANY
    assert time.process_time() - began < SECONDS


def test_calls_cost_as_much_as_their_number() -> None:
    began = time.process_time()
    calls = ((block(index, {**TOOL, "id": f"call_{index}"}), end(index)) for index in range(MANY))
    _, events = read(event for call in calls for event in call)
    assert len([event for event in events if isinstance(event, ReplyToolUse)]) == MANY
    assert time.process_time() - began < SECONDS


def test_a_signature_in_pieces_costs_as_much_as_its_size() -> None:
    began = time.process_time()
    pieces = 2 * MANY
    _, events = read([block(0, THINKING), *[delta("signature_delta", "x" * 150)] * pieces, end()])
    assert [len(event.block.signature) for event in events if isinstance(event, ReplyThinkingEnd)] == [150 * pieces]
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    "content_block",
    [
        {"type": "redacted_thinking", "data": LARGE},
        {**THINKING, "signature": LARGE},
        {**TOOL, "input": {"text": LARGE}},
        {"type": "compaction", "content": LARGE},
        {"name": "look", "id": LARGE},
    ],
)
def test_what_blocks_begin_with_is_limited_until_they_end(content_block: Event) -> None:
    _, events = read(block(index, content_block) for index in range(5))
    assert events[-1] == ReplyStop(StopReason.MAX_TOKENS)
    whole, _ = read(event for index in range(5) for event in (block(index, content_block), end(index)))
    assert not whole.complete


def test_parts_of_a_summary_are_limited_together() -> None:
    parts = [
        {"type": "content_block_delta", "delta": {"type": "compaction_delta", f"part_{n}": LARGE}} for n in range(5)
    ]
    _, events = read([block(0, {"type": "compaction"}), *parts])
    assert events[-1] == ReplyStop(StopReason.MAX_TOKENS)


def test_blocks_that_nobody_knows_are_not_held() -> None:
    reply, events = read(block(index, {"type": "novel", "text": LARGE}) for index in range(9))
    assert (reply.complete, events) == (False, [])


def test_thinking_hides_its_length_until_the_last_of_it_is_signed() -> None:
    begun = [block(0, THINKING), block(1, THINKING)]
    most = [
        read([*begun, *signed])[0].usage.most_output_tokens
        for signed in ([], [delta("signature_delta", "s")], [delta("signature_delta", "s", at) for at in (0, 1)])
    ]
    assert most[:2] == [1000, 1000]
    assert (most[2] or 0) < 1000
