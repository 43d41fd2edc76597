"""Limits the size of a reply, so that the message, and each event of it, can be received by every client."""

from dataclasses import replace

from metamorphd.llm.interface import (
    ReplyBlock,
    ReplyCompaction,
    ReplyText,
    ReplyThinking,
    ReplyThinkingEnd,
    ReplyToolResult,
    ReplyToolUse,
)
from metamorphd.models.content import BLOCK_BYTES, CONTENT_BYTES, MOST_BLOCKS, text_size, text_within


class ReplySize:
    """Counts the blocks and bytes of a reply as it is stored. `full` once something did not fit."""

    def __init__(self, limit: int = CONTENT_BYTES) -> None:
        self.full = False
        self._left = limit
        self._blocks = 0

    def fitting(self, event: ReplyBlock) -> ReplyBlock | None:
        """Returns the event, with its text cut to what is left, or None if nothing of it fits."""
        if event.block_index >= MOST_BLOCKS:
            self.full = True
            return None
        if event.block_index >= self._blocks:
            self._blocks = event.block_index + 1
            self._left -= BLOCK_BYTES
        size = _size(event)
        if size <= self._left:
            self._left -= size
            return event
        self.full = True
        if not isinstance(event, (ReplyText, ReplyThinking)) or self._left <= 0:
            return None
        text = text_within(event.text, self._left)
        self._left = 0
        return replace(event, text=text) if text else None


def _size(event: ReplyBlock) -> int:
    """Returns the bytes of an event's content."""
    match event:
        case ReplyText() | ReplyThinking():
            return len(event.text.encode())
        case ReplyToolUse(_, block):
            return len(block.input.encode()) + len(block.name.encode()) + len(block.tool_use_id.encode())
        case ReplyThinkingEnd(_, block):
            return len(block.signature.encode()) + len(block.redacted.encode())
        case ReplyToolResult(_, block):
            return text_size((block,)) + len(block.tool_use_id.encode())
        case ReplyCompaction(_, block):
            return len(block.summary.encode()) + len(block.opaque.encode())
