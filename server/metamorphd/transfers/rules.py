"""The rules for records of an export: by kind and field, one that a value follows.

An export may come from anywhere, so nothing of it is stored that the server could not have stored itself.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from metamorphd.models.content import Block, ToolResultBlock
from metamorphd.models.export import FORMAT
from metamorphd.models.generation import EFFORTS, EffectiveOptions
from metamorphd.models.memory import MemoryType
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason, TurnStatus
from metamorphd.models.usage import SubjectKind
from metamorphd.store.codec import NAMES, TYPES

Rule = Callable[[Any], bool]
Rules = Mapping[str, Rule]

LARGEST = 2**63 - 1
# About the year 5138.
LATEST = 10**17
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
MEDIA = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain")
MOST_PAIRS, MOST_LABELS, MOST_BLOCKS, MOST_MEMORY_CHARACTERS = 32, 8, 10_000, 8_192


def text(most: int) -> Rule:
    """A text of at most so many characters."""
    return lambda value: isinstance(value, str) and len(value) <= most


def matching(pattern: re.Pattern[str]) -> Rule:
    """A text that a pattern describes as a whole."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def number(least: int = 0, most: int = LARGEST) -> Rule:
    """A whole number."""
    return lambda value: type(value) is int and least <= value <= most


def one_of(*values: str) -> Rule:
    """One of some texts."""
    return lambda value: isinstance(value, str) and value in values


def optional(rule: Rule) -> Rule:
    """None, or a value that follows a rule."""
    return lambda value: value is None or rule(value)


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def pairs(key: Rule, content: Rule, most: int = MOST_PAIRS) -> Rule:
    """An object of at most so many texts."""
    return lambda value: (
        isinstance(value, dict) and len(value) <= most and all(key(k) and content(v) for k, v in value.items())
    )


def shaped(rules: Rules, *, needed: frozenset[str] = frozenset()) -> Rule:
    """An object with some of these fields, no others, and with those that are needed."""
    return lambda value: (
        isinstance(value, dict)
        and needed <= value.keys() <= rules.keys()
        and all(rules[name](field) for name, field in value.items())
    )


def listed(rule: Rule, most: int) -> Rule:
    """An array of at most so many values."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(rule, value))


identity, model, time, label = matching(ID), matching(MODEL), number(0, LATEST), matching(LABEL)
long_text = text(4 * MEBIBYTE)

BLOCK_FIELDS: Rules = {
    "attachment_id": identity,
    "bound_to": text(256),
    "input": long_text,
    "is_error": flag,
    "longest_side": number(0, MEBIBYTE),
    "media_type": one_of(*MEDIA),
    "memory_ids": listed(identity, 1_000),
    "name": text(256),
    "opaque": long_text,
    "pages": number(0, MEBIBYTE),
    "redacted": long_text,
    "sha256": matching(SHA256),
    "signature": long_text,
    "size": number(0, 64 * MEBIBYTE),
    "summary": long_text,
    "text": long_text,
    "tool_use_id": text(256),
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
        rules["content"] = listed(part, MOST_BLOCKS)
    # A later version may have added those with a default.
    needed = frozenset(each.name for each in fields(kind) if not isinstance(each.default, (str, int)))
    return shaped(rules, needed=needed)


BLOCKS: Rules = {name: _shape(kind) for kind, name in NAMES.items()}

TOOL = shaped(
    {"name": text(128), "description": long_text, "input_schema": long_text},
    needed=frozenset(("name", "description", "input_schema")),
)
OPTIONS: Rules = {
    "max_output_tokens": number(0, 2**31 - 1),
    "stop_sequences": listed(text(10_000), 64),
    "thinking": shaped({"mode": text(32), "budget_tokens": number(0, 2**31 - 1)}),
    "tools": listed(TOOL, 1_000),
    "tool_choice": shaped({"mode": text(32), "name": text(128), "disable_parallel_tool_use": flag}),
    "response_schema": long_text,
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
        "message": text(10_000),
        "metadata": pairs(text(256), text(10_000)),
        "retry_delay": lambda value: value is None or (type(value) in (int, float) and 0 <= value <= 10**9),
    },
    needed=frozenset(("reason", "message")),
)
LIMITS: Rules = {
    name: optional(number())
    for name in ("tokens_per_day", "tokens_per_month", "cost_usd_nanos_per_day", "cost_usd_nanos_per_month")
}
METADATA = pairs(matching(KEY), text(512))
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
        "recall_tokens": number(0, 2**31 - 1),
        "memory_tool": flag,
        "creator": text(1024),
        "create_time": time,
        "update_time": time,
    },
    "message": {
        "message_id": identity,
        "session_id": identity,
        "parent_message_id": optional(identity),
        "role": one_of(*Role),
        "content": listed(block, MOST_BLOCKS),
        "turn_id": matching(re.compile(f"({ID.pattern})?")),
        "creator": text(1024),
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
        "stop_details": optional(
            shaped({"category": text(1024), "explanation": long_text}, needed=frozenset(("category", "explanation")))
        ),
        "error": optional(ERROR),
        **TOKENS,
        "model": model,
        "model_calls": number(0, 2**31 - 1),
        "last_sequence": number(1, 2**31 - 1),
        "options": shaped(OPTIONS),
        "labels": LABELS,
        "creator": text(1024),
        "create_time": time,
        "finish_time": time,
    },
    "attachment": {
        "attachment_id": identity,
        "media_type": one_of(*MEDIA),
        "size": number(1, 64 * MEBIBYTE),
        "sha256": matching(SHA256),
        "create_time": time,
        "longest_side": number(0, MEBIBYTE),
        "pages": number(0, MEBIBYTE),
        "rejected": flag,
    },
    "attachment_chunk": {"attachment_id": identity, "number": number(0, 63), "data": text(2 * MEBIBYTE)},
    "usage": {"day": matching(DAY), "session_id": identity, "model": model, **TOKENS, "turns": number(0, MOST_USED)},
    "subject_usage": {
        "subject_kind": one_of(*SubjectKind),
        "subject": text(2048),
        "day": matching(DAY),
        "model": model,
        **TOKENS,
        "turns": number(0, MOST_USED),
    },
    "subject_budget": {"subject_kind": one_of(SubjectKind.USER, SubjectKind.LABEL), "subject": text(256), **LIMITS},
    "memory": {
        "memory_id": identity,
        "state": number(0, 1),
        "type": one_of(*MemoryType),
        "importance": lambda value: type(value) in (int, float) and 0 <= value <= 1,
        "path": optional(text(1024)),
        "superseded_by": optional(identity),
        "creator": text(1024),
        "session_id": optional(identity),
        "message_id": optional(identity),
        "create_time": time,
        "update_time": time,
        "last_use_time": time,
        "expire_time": optional(time),
        "metadata": METADATA,
        "content": text(MOST_MEMORY_CHARACTERS),
    },
    "secret": {"name": text(128)},
    "secret_version": {"name": text(128), "version": number(1, 2**31 - 1)},
    "trailer": {"counts": lambda value: isinstance(value, dict), "sha256": matching(SHA256)},
}


def wrong_field(kind: str, record: Mapping[str, Any]) -> str | None:
    """Returns the first field of a record that does not follow its rule, or None. A missing one counts as null."""
    if (kind, record.get("subject_kind")) == ("subject_budget", SubjectKind.LABEL) and not label(record.get("subject")):
        return "subject"
    return next((name for name, rule in RECORDS[kind].items() if not rule(record.get(name))), None)
