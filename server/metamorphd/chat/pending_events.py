"""What was read of a reply and is not committed yet."""

from typing import Protocol

from metamorphd.llm.interface import ReplyCompaction, ReplyText, ReplyThinking, ReplyToolUse
from metamorphd.models.turn import Compaction, MiddleEvent, TextDelta, ThinkingDelta, ToolUse, UsageUpdate
from metamorphd.models.usage import Usage

# A delta is cut here, so that an event stays far below the 3 MiB that a client accepts.
DELTA_CHARACTERS = 65_536


class _Item(Protocol):
    def event(self, turn_id: str, sequence: int) -> MiddleEvent: ...


class Pending:
    """What waits to be committed, in order; text and thinking of a block is joined.

    The first count of a turn's cost is an event of its own, which never goes alone: it would have the first delta wait.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._cost: Usage | None = None
        self._cost_told = False

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._items)

    def add(self, event: ReplyText | ReplyThinking | ReplyToolUse | ReplyCompaction) -> None:
        """Appends what was read."""
        match event:
            case ReplyText() | ReplyThinking():
                last = self._items[-1] if self._items else None
                if isinstance(last, _Delta) and last.takes(event):
                    last.append(event.text)
                else:
                    self._items.append(_Delta(event))
            case _:
                self._items.append(_Whole(event))

    def cost(self, usage: Usage) -> None:
        """What the turn has cost so far."""
        self._cost = usage

    def take(self, turn_id: str, *, first_sequence: int, ended: bool) -> list[MiddleEvent]:
        """All that waits, as events; nothing waits afterwards. One that has `ended` tells its cost otherwise."""
        events = [item.event(turn_id, sequence) for sequence, item in enumerate(self._items, first_sequence)]
        self._items.clear()
        if events and self._cost is not None and not self._cost_told and not ended:
            self._cost_told = True
            events.append(UsageUpdate(turn_id, first_sequence + len(events), self._cost))
        return events


class _Delta:
    """Text or thinking of one block, as long as an event may be."""

    __slots__ = ("_first", "_length", "_texts")

    def __init__(self, first: ReplyText | ReplyThinking) -> None:
        self._first = first
        self._texts = [first.text]
        self._length = len(first.text)

    def takes(self, more: ReplyText | ReplyThinking) -> bool:
        return more.block_index == self._first.block_index and self._length <= DELTA_CHARACTERS

    def append(self, text: str) -> None:
        self._texts.append(text)
        self._length += len(text)

    def event(self, turn_id: str, sequence: int) -> MiddleEvent:
        kind = TextDelta if isinstance(self._first, ReplyText) else ThinkingDelta
        return kind(turn_id, sequence, self._first.block_index, "".join(self._texts))


class _Whole:
    """What comes in one piece."""

    __slots__ = ("_told",)

    def __init__(self, told: ReplyToolUse | ReplyCompaction) -> None:
        self._told = told

    def event(self, turn_id: str, sequence: int) -> MiddleEvent:
        match self._told:
            case ReplyToolUse(block_index, block):
                return ToolUse(turn_id, sequence, block_index, block)
            case ReplyCompaction(block_index, block):
                return Compaction(turn_id, sequence, block_index, block)
