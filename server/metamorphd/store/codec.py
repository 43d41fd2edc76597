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
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.generation import Options, Thinking, Tool, ToolChoice

TYPES: dict[str, type[Block]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "document": DocumentBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
    "thinking": ThinkingBlock,
    "compaction": CompactionBlock,
}
NAMES = {block: name for name, block in TYPES.items()}


def encode_content(content: Content) -> str:
    """Blocks as they are stored."""
    return orjson.dumps([_encoded(block) for block in content]).decode()


def decode_content(text: str) -> Content:
    """What `encode_content` was given."""
    return tuple(map(_decoded, orjson.loads(text)))


def text_of(content: Content) -> str:
    """The text of the text blocks, a line end between two."""
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))


def _encoded(block: Block) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": NAMES[type(block)]}
    if isinstance(block, ToolResultBlock):
        return fields | asdict(block) | {"content": [_encoded(part) for part in block.content]}
    return fields | asdict(block)


def _decoded(fields: Mapping[str, Any]) -> Any:
    values = {name: value for name, value in fields.items() if name != "type"}
    if fields["type"] == "tool_result":
        values["content"] = tuple(map(_decoded, values["content"]))
    return TYPES[fields["type"]](**values)


USUAL = Options()


def encode_options(options: Options) -> str:
    """Options as they are stored; the model aside, which the turn names itself."""
    named = {field.name for field in fields(Options) if getattr(options, field.name) != getattr(USUAL, field.name)}
    told = asdict(options)
    return orjson.dumps({name: told[name] for name in sorted(named - {"model"})}).decode()


def decode_options(text: str) -> Options:
    """What `encode_options` was given, without a model."""
    told = orjson.loads(text)
    if not told:
        return USUAL
    return Options(
        max_output_tokens=told.get("max_output_tokens", 0),
        stop_sequences=tuple(told.get("stop_sequences", ())),
        thinking=Thinking(**told["thinking"]) if "thinking" in told else None,
        tools=tuple(Tool(**tool) for tool in told.get("tools", ())),
        tool_choice=ToolChoice(**told["tool_choice"]) if "tool_choice" in told else None,
        response_schema=told.get("response_schema", ""),
    )
