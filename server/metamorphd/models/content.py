"""The blocks of a message's content."""

from dataclasses import dataclass


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
    content: "tuple[TextBlock | ImageBlock | DocumentBlock, ...]"
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


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | CompactionBlock
Content = tuple[Block, ...]
