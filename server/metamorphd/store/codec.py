"""Content and options as they are stored: JSON."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import orjson

from metamorphd.models.content import (
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    RecalledBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.generation import EffectiveOptions, Thinking, Tool, ToolChoice
from metamorphd.models.usage import Usage
from metamorphd.store.database import Row

TYPES: dict[str, type[Block]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "document": DocumentBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
    "thinking": ThinkingBlock,
    "compaction": CompactionBlock,
    "recalled": RecalledBlock,
}
NAMES = {block: name for name, block in TYPES.items()}


def encode_content(content: Content) -> str:
    """Returns content as it is stored."""
    return orjson.dumps([_encoded(block) for block in content]).decode()


def decode_content(text: str) -> Content:
    """Returns the content that `encode_content` stored as `text`."""
    return tuple(map(_decoded, orjson.loads(text)))


def decode_usage(row: Row) -> Usage:
    """Returns the usage that a row holds, in columns named as the fields."""
    return Usage(
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cache_read_tokens=row.cache_read_tokens,
        cache_write_tokens=row.cache_write_tokens,
        cost_usd_nanos=row.cost_usd_nanos,
        estimated=bool(row.estimated),
    )


def _encoded(block: Block) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": NAMES[type(block)]}
    if isinstance(block, ToolResultBlock):
        return fields | asdict(block) | {"content": [_encoded(part) for part in block.content]}
    return fields | asdict(block)


def _decoded(fields: Mapping[str, Any]) -> Any:
    if fields["type"] == "text":
        return TextBlock(fields["text"])
    values = {name: value for name, value in fields.items() if name != "type"}
    if fields["type"] == "tool_result":
        values["content"] = tuple(map(_decoded, values["content"]))
    if fields["type"] == "recalled":
        values["memory_ids"] = tuple(values["memory_ids"])
    return TYPES[fields["type"]](**values)


DEFAULTS = EffectiveOptions()


def encode_options(options: EffectiveOptions) -> str:
    """Returns options as they are stored: those that are not the default. The model is the turn's own column."""
    changed = {
        field.name
        for field in fields(EffectiveOptions)
        if getattr(options, field.name) != getattr(DEFAULTS, field.name)
    }
    values = asdict(options)
    return orjson.dumps({name: values[name] for name in sorted(changed - {"model"})}).decode()


def decode_options(text: str) -> EffectiveOptions:
    """Returns what `encode_options` was given, without a model."""
    stored = orjson.loads(text)
    if not stored:
        return DEFAULTS
    return EffectiveOptions(
        max_output_tokens=stored.get("max_output_tokens", 0),
        stop_sequences=tuple(stored.get("stop_sequences", ())),
        thinking=Thinking(**stored.get("thinking", {})),
        tools=tuple(Tool(**tool) for tool in stored.get("tools", ())),
        tool_choice=ToolChoice(**stored.get("tool_choice", {})),
        response_schema=stored.get("response_schema", ""),
        effort=stored.get("effort", ""),
        memory_tool=stored.get("memory_tool", False),
    )
