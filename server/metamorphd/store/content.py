"""A message's content as it is stored: a JSON array of objects that say their type."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from metamorphd.models import (
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
