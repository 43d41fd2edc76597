"""The rules for records of an export: by kind and field, one that a value follows.

An export may come from anywhere, so nothing of it is stored that the server could not have stored itself.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from metamorphd.errors import LONGEST_METADATA
from metamorphd.models.content import CONTENT_BYTES, MOST_BLOCKS, Block, ToolResultBlock
from metamorphd.models.export import FORMAT
from metamorphd.models.generation import EFFORTS, THINKING_MODES, EffectiveOptions
from metamorphd.models.media_signatures import MEDIA_TYPES
from metamorphd.models.memory import MemoryType
from metamorphd.models.memory_file import is_file_path
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason, TurnStatus
from metamorphd.models.usage import SubjectKind
from metamorphd.store.codec import NAMES, TYPES
from metamorphd.store.subject_usage import OTHER_LABELS
from metamorphd.transfers.shapes import (
    Rule,
    Rules,
    flag,
    listed,
    matching,
    number,
    one_of,
    optional,
    pairs,
    shaped,
    text,
    within,
)

# The last microsecond that a Timestamp of the API has, in the year 9999.
LATEST = 253_402_300_799_999_999
MEBIBYTE = 2**20
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:@/-]{0,127})?")
DAY = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
KEY, LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LABEL_VALUE = re.compile(r"[A-Za-z0-9._-]{0,63}")
LABEL = re.compile(f"{LABEL_KEY.pattern}={LABEL_VALUE.pattern}")
# Of one record. What a vault has is added up.
MOST_USED = 10**14
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_PAIRS, MOST_MEMORY_PAIRS, MOST_LABELS, MOST_MEMORY_CHARACTERS = 32, 16, 8, 8_192
# What SendMessage takes of blocks, of parts of a tool's result and of tools.
MOST_SENT, MOST_PARTS, MOST_TOOLS = 64, 64, 128
# The most that MAX_ATTACHMENT_BYTES can be.
LARGEST_ATTACHMENT, MOST_CHUNKS = 32 * MEBIBYTE, 32


identity, model, time, label = matching(ID), matching(MODEL), number(0, LATEST), matching(LABEL)
user, long_text = text(256), text(CONTENT_BYTES)


def file_path(value: Any) -> bool:
    """The path of a memory that is a file."""
    return isinstance(value, str) and is_file_path(value)


BLOCK_FIELDS: Rules = {
    "attachment_id": identity,
    "bound_to": text(256),
    "input": long_text,
    "is_error": flag,
    "longest_side": number(0, MEBIBYTE),
    "media_type": one_of(*MEDIA_TYPES),
    "memory_ids": listed(identity, 16),
    # A model may call a tool that there is not.
    "name": long_text,
    "opaque": long_text,
    "pages": number(0, MEBIBYTE),
    "redacted": long_text,
    "sha256": matching(SHA256),
    "signature": long_text,
    "size": number(0, LARGEST_ATTACHMENT),
    "summary": long_text,
    "text": long_text,
    "tool_use_id": text(128),
}
PARTS = ("text", "image", "document")


def block(value: Any) -> bool:
    """A block of a message's content."""
    return _block(value, tuple(TYPES))


def part(value: Any) -> bool:
    """A block of a tool's result."""
    return _block(value, PARTS)


def _block(value: Any, names: tuple[str, ...]) -> bool:
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in names:
        return False
    return BLOCKS[name]({field: content for field, content in value.items() if field != "type"})


def _shape(kind: type[Block]) -> Rule:
    rules: dict[str, Rule] = {each.name: BLOCK_FIELDS[each.name] for each in fields(kind) if each.name in BLOCK_FIELDS}
    if kind is ToolResultBlock:
        rules["content"] = listed(part, MOST_PARTS)
    # A later version may have added those with a default.
    needed = frozenset(each.name for each in fields(kind) if not isinstance(each.default, (str, int)))
    return shaped(rules, needed=needed)


BLOCKS: Rules = {name: _shape(kind) for kind, name in NAMES.items()}

TOOL = shaped(
    {
        "name": matching(re.compile("[A-Za-z0-9_-]{1,128}")),
        "description": text(20_000),
        "input_schema": text(100_000),
    },
    needed=frozenset(("name", "description", "input_schema")),
)
OPTIONS: Rules = {
    "max_output_tokens": number(0, 2**31 - 1),
    "stop_sequences": listed(text(256), 16),
    "thinking": shaped({"mode": one_of("", *THINKING_MODES), "budget_tokens": number(0, 2**31 - 1)}),
    "tools": listed(TOOL, MOST_TOOLS),
    "tool_choice": shaped(
        {"mode": one_of("auto", "any", "tool", "none"), "name": text(128), "disable_parallel_tool_use": flag}
    ),
    "response_schema": text(100_000),
    "effort": one_of("", *EFFORTS),
    "memory_tool": flag,
}
if OPTIONS.keys() != {each.name for each in fields(EffectiveOptions)} - {"model"}:
    raise TypeError("an option has no rule")

TOKENS: Rules = {
    name: number(0, MOST_USED)
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos")
} | {"estimated": flag}
ERROR = shaped(
    {
        "reason": text(128),
        # With values of metadata in it.
        "message": text(4_096),
        "metadata": pairs(text(64), text(LONGEST_METADATA), 16),
        "retry_delay": lambda value: value is None or (type(value) in (int, float) and 0 <= value <= 10**9),
    },
    needed=frozenset(("reason", "message")),
)
LIMITS: Rules = {
    name: optional(number())
    for name in ("tokens_per_day", "tokens_per_month", "cost_usd_nanos_per_day", "cost_usd_nanos_per_month")
}
METADATA, MEMORY_METADATA = (pairs(matching(KEY), text(512), most) for most in (MOST_PAIRS, MOST_MEMORY_PAIRS))
# Of each text, bytes of the provider's.
STOP_DETAILS = shaped(
    {"category": text(4_096), "explanation": text(4_096)}, needed=frozenset(("category", "explanation"))
)
LABELS = pairs(matching(LABEL_KEY), matching(LABEL_VALUE), MOST_LABELS)

RECORDS: Mapping[str, Rules] = {
    "header": {"format": one_of(FORMAT), "version": number(1)},
    "vault": {
        "display_name": text(200),
        "default_model": model,
        "system_prompt": text(100_000),
        **LIMITS,
    },
    "session": {
        "session_id": identity,
        "title": text(200),
        "model": model,
        "system_prompt": text(100_000),
        "metadata": METADATA,
        "labels": LABELS,
        "archived": flag,
        "recall_tokens": number(0, 16_384),
        "memory_tool": flag,
        "creator": user,
        "create_time": time,
        "update_time": time,
    },
    "message": {
        "message_id": identity,
        "session_id": identity,
        "parent_message_id": optional(identity),
        "role": one_of(*Role),
        "content": within(CONTENT_BYTES, listed(block, MOST_BLOCKS)),
        "turn_id": matching(re.compile(f"({ID.pattern})?")),
        "creator": user,
        "model": model,
        **{name: optional(rule) for name, rule in TOKENS.items()},
        "create_time": time,
        "delete_time": optional(time),
        "partial": flag,
        "refused": flag,
        "rejected": flag,
    },
    "turn": {
        "turn_id": identity,
        "session_id": identity,
        "user_message_id": identity,
        "reply_message_id": optional(identity),
        "status": one_of(*(status for status in TurnStatus if status is not TurnStatus.RUNNING)),
        "stop_reason": optional(one_of(*StopReason)),
        "stop_details": optional(STOP_DETAILS),
        "error": optional(ERROR),
        **TOKENS,
        "model": model,
        "model_calls": number(0, 2**31 - 1),
        "last_sequence": number(1, 2**31 - 1),
        "options": within(CONTENT_BYTES, shaped(OPTIONS)),
        "labels": LABELS,
        "creator": user,
        "create_time": time,
        "finish_time": time,
    },
    "attachment": {
        "attachment_id": identity,
        "media_type": one_of(*MEDIA_TYPES),
        "size": number(1, LARGEST_ATTACHMENT),
        "sha256": matching(SHA256),
        "create_time": time,
        "longest_side": number(0, MEBIBYTE),
        "pages": number(0, MEBIBYTE),
        "rejected": flag,
    },
    "attachment_chunk": {"attachment_id": identity, "number": number(0, MOST_CHUNKS - 1), "data": text(2 * MEBIBYTE)},
    "usage": {"day": matching(DAY), "session_id": identity, "model": model, **TOKENS, "turns": number(0, MOST_USED)},
    "subject_usage": {
        "subject_kind": one_of(*SubjectKind),
        "subject": user,
        "day": matching(DAY),
        "model": model,
        **TOKENS,
        "turns": number(0, MOST_USED),
    },
    "subject_budget": {"subject_kind": one_of(SubjectKind.USER, SubjectKind.LABEL), "subject": user, **LIMITS},
    "memory": {
        "memory_id": identity,
        "state": number(0, 1),
        "type": one_of(*MemoryType),
        "importance": lambda value: type(value) in (int, float) and 0 <= value <= 1,
        "path": optional(file_path),
        "superseded_by": optional(identity),
        "creator": user,
        "session_id": optional(identity),
        "message_id": optional(identity),
        "create_time": time,
        "update_time": time,
        "last_use_time": time,
        "expire_time": optional(time),
        "metadata": MEMORY_METADATA,
        "content": text(MOST_MEMORY_CHARACTERS),
    },
    "secret": {"name": text(128)},
    "secret_version": {"name": text(128), "version": number(1, 2**31 - 1)},
    "trailer": {"counts": lambda value: isinstance(value, dict), "sha256": matching(SHA256)},
}


def wrong_field(kind: str, record: Mapping[str, Any]) -> str | None:
    """Returns the first field of a record that does not follow its rule, or None. A missing one counts as null."""
    wrong = next((name for name, rule in RECORDS[kind].items() if not rule(record.get(name))), None)
    return wrong or _wrong_together(kind, record)


def _wrong_together(kind: str, record: Mapping[str, Any]) -> str | None:
    """Returns a field that does not suit another one, or None. Each follows its rule."""
    match kind, record.get("subject_kind", record.get("role")):
        case "subject_budget", SubjectKind.LABEL if not label(record["subject"]):
            return "subject"
        case "subject_usage", SubjectKind.LABEL if not (record["subject"] == OTHER_LABELS or label(record["subject"])):
            return "subject"
        # Beside what was sent there may be memories. In a reply, a tool's result is one text.
        case "message", Role.USER if len(record["content"]) > MOST_SENT + 1:
            return "content"
        case "message", Role.ASSISTANT if any(len(each.get("content", ())) > 1 for each in record["content"]):
            return "content"
    return None
