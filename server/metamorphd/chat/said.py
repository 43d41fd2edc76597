"""A turn's reply so far, with the results of the calls that the server ran."""

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
from metamorphd.models.content import Block, Content, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock


class Said:
    """Adds events up to the content of the reply, as it will be stored."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._blocks: dict[int, Block] = {}

    @property
    def blocks(self) -> int:
        """Returns how many blocks there are."""
        return len(self._blocks)

    def add(self, event: ReplyBlock) -> None:
        """Adds an event."""
        index = event.block_index
        match event:
            case ReplyText():
                self._blocks.setdefault(index, TextBlock(""))
                self._texts.setdefault(index, []).append(event.text)
            case ReplyThinking():
                self._blocks.setdefault(index, ThinkingBlock(""))
                self._texts.setdefault(index, []).append(event.text)
            case ReplyThinkingEnd() | ReplyToolUse() | ReplyToolResult() | ReplyCompaction():
                self._blocks[index] = event.block

    def pending(self) -> list[ToolUseBlock]:
        """Returns the calls that have no result yet."""
        ended = {block.tool_use_id for block in self._blocks.values() if isinstance(block, ToolResultBlock)}
        calls = (block for block in self._blocks.values() if isinstance(block, ToolUseBlock))
        return [block for block in calls if block.tool_use_id not in ended]

    def content(self) -> Content:
        """Returns all of it."""
        return tuple(self._whole(index) for index in sorted(self._blocks))

    def _whole(self, index: int) -> Block:
        block = self._blocks[index]
        if isinstance(block, TextBlock | ThinkingBlock) and index in self._texts:
            return replace(block, text="".join(self._texts[index]))
        return block
