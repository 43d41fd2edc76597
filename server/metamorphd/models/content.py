"""The blocks of a message's content, and functions that traverse them.

Content is a tree with two levels, because a tool result contains blocks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class TextBlock:
    text: str


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """An image stored in the vault."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentBlock:
    """A document stored in the vault."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """A tool call. `input` is JSON, exactly as the model wrote it."""

    tool_use_id: str
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    tool_use_id: str
    content: "tuple[Part, ...]"
    is_error: bool


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """Thinking. `signature` and `redacted` are the provider's, sent back to it unchanged; empty if it sent none."""

    text: str
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class CompactionBlock:
    """A summary that replaces everything before it in the prompt. `opaque` is JSON, sent back to the provider too."""

    summary: str
    opaque: str = "{}"


AttachmentBlock = ImageBlock | DocumentBlock
Part = TextBlock | AttachmentBlock
Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | CompactionBlock
Content = tuple[Block, ...]


def parts(content: Content) -> Iterator[Block]:
    """Yields the blocks of `content` in order, with the blocks in a tool result instead of the tool result."""
    for block in content:
        if isinstance(block, ToolResultBlock):
            yield from block.content
        else:
            yield block


def attachment_blocks(content: Content) -> Iterator[AttachmentBlock]:
    """Yields the images and documents of `content` in order, including those in tool results."""
    return (part for part in parts(content) if isinstance(part, AttachmentBlock))


def text_of(content: Content) -> str:
    """Returns the text of the text blocks, joined by line breaks, without that of tool results."""
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))


def text_size(content: Content) -> int:
    """Returns the size of all text, including that in tool results, in bytes of UTF-8."""
    return sum(len(part.text.encode()) for part in parts(content) if isinstance(part, TextBlock))


def map_attachments(content: Content, change: Callable[[AttachmentBlock], Part]) -> Content:
    """Returns `content` with each image and document replaced by the result of `change`, which is called in order."""

    def changed(block: Any) -> Any:
        match block:
            case ImageBlock() | DocumentBlock():
                return change(block)
            case ToolResultBlock():
                return replace(block, content=tuple(map(changed, block.content)))
        return block

    return tuple(map(changed, content))
