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
    """An image stored in the vault. `longest_side` is in pixels, 0 if unknown."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str
    longest_side: int = 0


@dataclass(frozen=True, slots=True)
class DocumentBlock:
    """A document stored in the vault. `pages` is how many a PDF states that it has, 0 if unknown."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str
    pages: int = 0


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
    """Thinking. `signature` and `redacted` are the provider's, sent back to it unchanged; empty if it sent none.

    `bound_to` identifies the request that it answered, without which the provider refuses it; empty if unknown.
    """

    text: str
    signature: str = ""
    redacted: str = ""
    bound_to: str = ""


@dataclass(frozen=True, slots=True)
class CompactionBlock:
    """A summary that replaces everything before it in the prompt. `opaque` is JSON, sent back to the provider too."""

    summary: str
    opaque: str = "{}"


@dataclass(frozen=True, slots=True)
class RecalledBlock:
    """Memories that were put to a user's message: what the model is sent, and their IDs, best first."""

    text: str
    memory_ids: tuple[str, ...]


# Of a message. gRPC clients refuse responses of more than 4 MiB by default.
CONTENT_BYTES = 3 * 1024 * 1024
# Of a reply. Each of them takes time to read, however small it is.
MOST_BLOCKS = 1024
# More than the tags and lengths of a block, or the description of an attachment, take up.
BLOCK_BYTES = 256

AttachmentBlock = ImageBlock | DocumentBlock
Part = TextBlock | AttachmentBlock
Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | CompactionBlock
    | RecalledBlock
)
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


def recalled_in(content: Content) -> tuple[str, ...]:
    """Returns the IDs of the memories that were put to a message."""
    return tuple(id_ for block in content if isinstance(block, RecalledBlock) for id_ in block.memory_ids)


def spoken(content: Content) -> Content:
    """Returns content without blocks of thinking."""
    return tuple(block for block in content if not isinstance(block, ThinkingBlock))


def text_size(content: Content) -> int:
    """Returns the size of all text, including that in tool results, in bytes of UTF-8."""
    return sum(len(part.text.encode()) for part in parts(content) if isinstance(part, TextBlock))


def text_within(text: str, size: int) -> str:
    """Returns the beginning of a text, at most `size` bytes of UTF-8."""
    # Most texts are far too short to be measured.
    return text if 4 * len(text) <= size else text.encode()[:size].decode(errors="ignore")


def content_within(content: Content, size: int) -> Content:
    """Returns content itself if it fits in about `size` bytes as a protobuf message, otherwise its beginning.

    The last text may be cut.
    """
    if sum(map(_most_bytes, content)) <= size:
        return content
    kept: list[Block] = []
    for block in content:
        needed = _bytes(block)
        if needed > size:
            if isinstance(block, TextBlock) and size > BLOCK_BYTES:
                kept.append(TextBlock(text_within(block.text, size - BLOCK_BYTES)))
            return tuple(kept)
        size -= needed
        kept.append(block)
    return content


def _texts(block: Block) -> Iterator[str]:
    """Yields the texts of a block that callers see."""
    match block:
        case TextBlock():
            yield block.text
        case ToolUseBlock():
            yield block.input
            yield block.name
        case ThinkingBlock():
            yield block.text
            yield block.signature
            yield block.redacted
        case CompactionBlock():
            yield block.summary
        case RecalledBlock():
            yield block.text
            yield from block.memory_ids
        case ToolResultBlock():
            for part in block.content:
                yield from _texts(part)


def _overhead(block: Block) -> int:
    return BLOCK_BYTES * (1 + len(block.content) if isinstance(block, ToolResultBlock) else 1)


def _most_bytes(block: Block) -> int:
    """Returns an upper bound of `_bytes`, without encoding anything."""
    return _overhead(block) + 4 * sum(map(len, _texts(block)))


def _bytes(block: Block) -> int:
    """Returns the size of a block as a protobuf message, or a little more."""
    return _overhead(block) + sum(len(text.encode()) for text in _texts(block))


def described(block: AttachmentBlock, *, size: int, sha256: str, longest_side: int, pages: int) -> AttachmentBlock:
    """Returns a block with what is known of its attachment."""
    if isinstance(block, ImageBlock):
        return replace(block, size=size, sha256=sha256, longest_side=longest_side)
    return replace(block, size=size, sha256=sha256, pages=pages)


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
