"""A reply ends at 3 MiB or 1,024 blocks, so that each message and each event can be received."""

from pathlib import Path

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2
from metamorphd.models.content import (
    BLOCK_BYTES,
    CONTENT_BYTES,
    MOST_BLOCKS,
    Content,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    content_within,
)

from tests.support.caller import Caller, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Block, Reply, thinking, tool_use
from tests.support.rows import row_counts
from tests.support.turns import deltas

# Three bytes of UTF-8.
PIECE = "é," * 20_000
ENTIRE = 3 * len(PIECE) // 2
MANY = CONTENT_BYTES // ENTIRE + 5


@pytest.mark.parametrize(
    ("chunks", "kinds"),
    [
        ((PIECE,) * MANY, ["text"]),
        ((PIECE * MANY,), ["text"]),
        ((thinking(PIECE * MANY, "signed"), "after"), ["thinking"]),
        (("before", tool_use("t1", "look", *['{"a":"' + PIECE] * MANY)), ["text"]),
        (("before", thinking("why", "s" * 2 * CONTENT_BYTES)), ["text", "thinking"]),
    ],
    ids=["many deltas", "one delta", "thinking", "a tool's input", "a signature"],
)
async def test_a_reply_ends_at_3_mib_and_its_call_is_closed(
    alice: Caller, api: FakeMessagesApi, chunks: tuple[str | Block, ...], kinds: list[str]
) -> None:
    api.default = Reply(chunks, ending="stall")
    session = await alice.create_session()
    events = await alice.send(session.session_id, "Go on")
    finished = events[-1].turn_finished
    assert (finished.status, finished.stop_reason) == (
        turn_pb2.TURN_STATUS_COMPLETED,
        turn_pb2.STOP_REASON_MAX_TOKENS,
    )
    assert max(event.ByteSize() for event in events) <= CONTENT_BYTES + 1000
    assert [block.WhichOneof("block") for block in finished.message.content] == kinds
    assert deltas(events) == text_of(finished.message)
    # What was reported before the end is kept.
    assert finished.usage.input_tokens == 11
    await api.until_idle()
    read = await alice.chat.GetMessage(
        pb.GetMessageRequest(message_id=finished.message.message_id), metadata=alice.metadata
    )
    assert read.message == finished.message
    assert not read.message.partial


async def test_a_reply_ends_at_1024_blocks(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(tuple(tool_use(f"t{number}", "look", "{}") for number in range(MOST_BLOCKS + 1)))
    session = await alice.create_session()
    finished = (await alice.send(session.session_id, "Go on"))[-1].turn_finished
    assert finished.stop_reason == turn_pb2.STOP_REASON_MAX_TOKENS
    assert len(finished.message.content) == MOST_BLOCKS


async def test_a_reply_of_nearly_3_mib_is_whole(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply((PIECE,) * (CONTENT_BYTES // ENTIRE - 1))
    session = await alice.create_session()
    finished = (await alice.send(session.session_id, "Go on"))[-1].turn_finished
    assert finished.stop_reason == turn_pb2.STOP_REASON_END_TURN
    assert len(text_of(finished.message)) == len(PIECE) * (CONTENT_BYTES // ENTIRE - 1)


async def test_a_larger_message_of_an_earlier_version_is_read_in_part(
    alice: Caller, api: FakeMessagesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metamorphd.chat.reply_size.CONTENT_BYTES", 6 << 20)
    monkeypatch.setattr("metamorphd.chat.reply_size.ReplySize.__init__.__defaults__", (6 << 20,))
    api.default = Reply((PIECE,) * (2 * MANY), ending="stop")
    session = await alice.create_session()
    finished = (await alice.send(session.session_id, "Go on"))[-1].turn_finished
    assert row_counts(tmp_path, "messages") == (2,)
    request = pb.ListMessagesRequest(session_id=session.session_id)
    request.page_token = (await alice.chat.ListMessages(request, metadata=alice.metadata)).next_page_token
    (listed,) = (await alice.chat.ListMessages(request, metadata=alice.metadata)).messages
    assert listed == finished.message
    assert listed.partial
    assert CONTENT_BYTES - 1000 < listed.ByteSize() <= CONTENT_BYTES + 1000
    assert len(text_of(listed).encode()) < MANY * ENTIRE


@pytest.mark.parametrize(
    ("content", "size", "kept"),
    [
        ((TextBlock("a" * 100),), 1000, (TextBlock("a" * 100),)),
        ((TextBlock("é" * 100), TextBlock("b")), BLOCK_BYTES + 99, (TextBlock("é" * 49),)),
        ((ToolUseBlock("t", "n", "x" * 900), TextBlock("b")), 1000, ()),
        ((TextBlock("a"), ThinkingBlock("t" * 900)), 1000, (TextBlock("a"),)),
    ],
    ids=["fits", "text is cut between characters", "a tool call is left out", "thinking is left out"],
)
def test_content_is_cut_after_the_last_block_that_fits(content: Content, size: int, kept: Content) -> None:
    assert content_within(content, size) == kept
