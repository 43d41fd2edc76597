"""The blocks of a message's content."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextBlock:
    text: str


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """An image that the vault holds."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentBlock:
    """A document that the vault holds."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """A call of a tool; `input` is JSON, as the model wrote it."""

    tool_use_id: str
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    tool_use_id: str
    content: "tuple[TextBlock | ImageBlock | DocumentBlock, ...]"
    is_error: bool


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """`signature` and `redacted` are the provider's own, given back to it as they are; empty where it gave none."""

    text: str
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class CompactionBlock:
    """What the model is told instead of all that came before. `opaque` is JSON, given back to the provider with it."""

    summary: str
    opaque: str = "{}"


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | CompactionBlock
Content = tuple[Block, ...]
