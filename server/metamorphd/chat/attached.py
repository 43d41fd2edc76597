"""The images and documents of a prompt.

What cannot be shown any more leaves a note in its place: the model knows of it, and no message becomes empty.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from metamorphd.llm.model import PromptMessage
from metamorphd.models import Block, DocumentBlock, ImageBlock, TextBlock, ToolResultBlock

# The provider takes requests of at most 32 MB; in base64, so many bytes leave it a megabyte for text.
PROMPT_BYTES = 22 * 1024 * 1024
LEFT_OUT = TextBlock("[An attachment that was here is not available any more.]")

Attached = ImageBlock | DocumentBlock


def within_limit(messages: Sequence[PromptMessage]) -> tuple[PromptMessage, ...]:
    """Messages with their newest attachments, those of `PROMPT_BYTES` in all; older ones are left out."""
    left = PROMPT_BYTES

    def fits(block: Attached) -> bool:
        nonlocal left
        left -= block.size
        return left >= 0

    return tuple(reversed([_only(message, fits) for message in reversed(messages)]))


def without_missing(messages: Iterable[PromptMessage], attachment_ids: AbstractSet[str]) -> tuple[PromptMessage, ...]:
    """Messages with those attachments only."""
    return tuple(_only(message, lambda block: block.attachment_id in attachment_ids) for message in messages)


def attachment_ids(messages: Iterable[PromptMessage]) -> set[str]:
    """The attachments that messages name."""
    return {block.attachment_id for message in messages for block in message.attachments}


def _only(message: PromptMessage, keep: Callable[[Attached], bool]) -> PromptMessage:
    """Asks for each attachment from the last to the first."""
    kept = [_kept(block, keep) for block in reversed(message.content)]
    return replace(message, content=tuple(reversed(kept)))


def _kept(block: Block, keep: Callable[[Attached], bool]) -> Block:
    match block:
        case ImageBlock() | DocumentBlock():
            return block if keep(block) else LEFT_OUT
        case ToolResultBlock():
            parts = [
                part if isinstance(part, TextBlock) or keep(part) else LEFT_OUT for part in reversed(block.content)
            ]
            return replace(block, content=tuple(reversed(parts)))
    return block
