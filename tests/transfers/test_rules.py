"""A record of an import has what the server could have stored, and all of it."""

from typing import Any

import pytest
from metamorphd.errors import LONGEST_METADATA
from metamorphd.models.content import CONTENT_BYTES, MOST_BLOCKS
from metamorphd.transfers.rules import RECORDS, wrong_field

# Takes four bytes in UTF-8, and counts as one character.
WIDE = "\U0001f30a"
DAY = {"day": "2026-11-28", "model": "m", "turns": 1, "estimated": False} | dict.fromkeys(
    ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos"), 1
)


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(parts: int) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": [text("x")] * parts, "is_error": False}


def recalled(count: int) -> dict[str, Any]:
    return {"type": "recalled", "text": "x", "memory_ids": ["mem_1"] * count}


def called(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "tool_use_id": "t", "name": name, "input": "{}"}


def tool(description: int = 1, schema: int = 1) -> dict[str, str]:
    return {"name": "n" * 128, "description": WIDE * description, "input_schema": WIDE * schema}


def document(size: int) -> dict[str, Any]:
    fields = {"attachment_id": "att_1", "media_type": "text/plain", "size": size, "sha256": "0" * 64, "pages": 0}
    return {"type": "document", **fields}


def error(message: int = 1, pairs: int = 1, value: int = 1) -> dict[str, Any]:
    metadata = {f"k{number}": WIDE * value for number in range(pairs)}
    return {"reason": "X", "message": WIDE * message, "metadata": metadata, "retry_delay": None}


def refusal(length: int) -> dict[str, str]:
    return {"category": "x" * length, "explanation": "x" * length}


# The largest value of a field that can be stored, and the next one.
BOUNDS: dict[str, tuple[str, str, Any, Any]] = {
    "a user": ("message", "creator", WIDE * 256, "x" * 257),
    "the creator of a session": ("session", "creator", WIDE * 256, "x" * 257),
    "the creator of a memory": ("memory", "creator", WIDE * 256, "x" * 257),
    "the user of usage": ("subject_usage", "subject", WIDE * 256, "x" * 257),
    "tokens that are recalled": ("session", "recall_tokens", 16_384, 16_385),
    "the last time": ("memory", "expire_time", 253_402_300_799_999_999, 253_402_300_800_000_000),
    "metadata of a memory": (
        "memory",
        "metadata",
        {f"k{number}": WIDE * 512 for number in range(16)},
        {f"k{number}": "" for number in range(17)},
    ),
    "a path": ("memory", "path", "/memories/" + WIDE * 246, "/memories/" + "x" * 247),
    "a refusal": ("turn", "stop_details", refusal(4_096), refusal(4_097)),
    "the message of an error": ("turn", "error", error(message=4_096), error(message=4_097)),
    "the metadata of an error": ("turn", "error", error(pairs=16), error(pairs=17)),
    "a value of an error": ("turn", "error", error(value=LONGEST_METADATA), error(value=LONGEST_METADATA + 1)),
    "stop sequences": ("turn", "options", {"stop_sequences": [WIDE * 256] * 16}, {"stop_sequences": ["x"] * 17}),
    "a stop sequence": ("turn", "options", {"stop_sequences": ["x" * 256]}, {"stop_sequences": ["x" * 257]}),
    "tools": ("turn", "options", {"tools": [tool()] * 128}, {"tools": [tool()] * 129}),
    "a tool": ("turn", "options", {"tools": [tool(20_000, 100_000)]}, {"tools": [tool(20_001)]}),
    "a schema": ("turn", "options", {"response_schema": WIDE * 100_000}, {"response_schema": "x" * 100_001}),
    "tools together": ("turn", "options", {"tools": [tool(1, 50_000)] * 15}, {"tools": [tool(1, 50_000)] * 16}),
    "thinking": ("turn", "options", {"thinking": {"mode": "between_tools"}}, {"thinking": {"mode": "deeply"}}),
    "a choice": ("turn", "options", {"tool_choice": {"mode": "none"}}, {"tool_choice": {"mode": "all"}}),
    "blocks": ("message", "content", [text("")] * MOST_BLOCKS, [text("")] * (MOST_BLOCKS + 1)),
    "a text": ("message", "content", [text("x" * CONTENT_BYTES)], [text("x" * (CONTENT_BYTES + 1))]),
    "texts together": (
        "message",
        "content",
        [text(WIDE * (CONTENT_BYTES // 8))] * 2,
        [text(WIDE * (CONTENT_BYTES // 8)), text(WIDE * (CONTENT_BYTES // 8) + "x")],
    ),
    "the name of a tool that there is not": (
        "message",
        "content",
        [called(WIDE * 10_000)],
        [called(WIDE * (CONTENT_BYTES // 4))],
    ),
    "parts of a result": ("message", "content", [result(64)], [result(65)]),
    "memories": ("message", "content", [recalled(16)], [recalled(17)]),
    "a document": ("message", "content", [document(32 * 2**20)], [document(32 * 2**20 + 1)]),
    "an attachment": ("attachment", "size", 32 * 2**20, 32 * 2**20 + 1),
    "chunks": ("attachment_chunk", "number", 31, 32),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_field_has_what_can_be_stored_and_no_more(name: str) -> None:
    kind, field, most, more = BOUNDS[name]
    assert RECORDS[kind][field](most)
    assert not RECORDS[kind][field](more)


@pytest.mark.parametrize(("subject", "wrong"), [("team=a", None), ("*", None), ("team", "subject"), ("", "subject")])
def test_usage_of_labels_is_that_of_one_or_of_all_others(subject: str, wrong: str | None) -> None:
    record = {"subject_kind": "label", "subject": subject, **DAY}
    assert wrong_field("subject_usage", record) == wrong
    assert wrong_field("subject_usage", record | {"subject_kind": "user"}) is None


@pytest.mark.parametrize(
    ("role", "blocks", "wrong"),
    [
        ("USER", [text("x")] * 65, None),
        ("USER", [text("x")] * 66, "content"),
        ("USER", [result(64)], None),
        ("ASSISTANT", [text("x")] * 66, None),
        ("ASSISTANT", [result(1)] * 66, None),
        ("ASSISTANT", [result(2)], "content"),
    ],
)
def test_a_user_sends_fewer_blocks_than_a_reply_has_and_larger_results(
    role: str, blocks: list[dict[str, Any]], wrong: str | None
) -> None:
    ids = {"message_id": "m", "session_id": "s", "parent_message_id": None, "turn_id": "", "creator": "", "model": ""}
    times = {"create_time": 1, "delete_time": None, "partial": False, "refused": False, "rejected": False}
    record = {**ids, **times, "role": role, "content": blocks}
    assert wrong_field("message", record) == wrong


@pytest.mark.parametrize("path", ["", "/", "/memories", "/memories/", "/memories/a/", "/other", "/memories/a\nb"])
def test_a_path_is_one_that_the_memory_tool_can_give(path: str) -> None:
    assert not RECORDS["memory"]["path"](path)
    assert RECORDS["memory"]["path"]("/memories/a/b.txt")
    assert RECORDS["memory"]["path"](None)
