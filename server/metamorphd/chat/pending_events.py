"""The part of a reply that was read and is not yet committed."""

from typing import Protocol

from metamorphd.llm.interface import ReplyCompaction, ReplyText, ReplyThinking, ReplyToolResult, ReplyToolUse
from metamorphd.models.turn import (
    Compaction,
    MemoriesRecalled,
    MiddleEvent,
    TextDelta,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    UsageUpdate,
)
from metamorphd.models.usage import Usage

# Maximum length of a delta, which keeps events far below the 3 MiB that clients accept.
DELTA_CHARACTERS = 65_536


class _Item(Protocol):
    def event(self, turn_id: str, sequence: int) -> MiddleEvent: ...


class Pending:
    """Events to commit, in order. The text or thinking of a block is joined.

    The first usage of a turn becomes an event, and so do the memories that were recalled. Neither is sent alone: that
    would delay the first delta.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._usage: Usage | None = None
        self._usage_sent = False
        self._recalled: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Returns whether there are events to take."""
        return bool(self._items)

    def add(self, event: ReplyText | ReplyThinking | ReplyToolUse | ReplyToolResult | ReplyCompaction) -> None:
        """Appends an event of the reply."""
        match event:
            case ReplyText() | ReplyThinking():
                last = self._items[-1] if self._items else None
                if isinstance(last, _Delta) and last.takes(event):
                    last.append(event.text)
                else:
                    self._items.append(_Delta(event))
            case _:
                self._items.append(_Whole(event))

    def set_recalled(self, memory_ids: tuple[str, ...]) -> None:
        """Sets the memories that were put to the user's message. Their event comes before all others."""
        self._recalled = memory_ids

    @property
    def wants_usage(self) -> bool:
        """Returns whether the usage has not become an event yet."""
        return not self._usage_sent

    def expect_usage(self) -> None:
        """Has the next usage become an event too: a further call is begun."""
        self._usage, self._usage_sent = None, False

    def set_usage(self, usage: Usage | None) -> None:
        """Sets the usage of the turn so far, None if it is unknown."""
        self._usage = usage

    def take(self, turn_id: str, *, first_sequence: int, ended: bool) -> list[MiddleEvent]:
        """Removes and returns all events. Without the usage if the turn has `ended`, because its last event has it."""
        events: list[MiddleEvent] = []
        if self._recalled and (self._items or ended):
            events.append(MemoriesRecalled(turn_id, first_sequence, self._recalled))
            self._recalled = ()
        first = first_sequence + len(events)
        events += [item.event(turn_id, sequence) for sequence, item in enumerate(self._items, first)]
        self._items.clear()
        if events and self._usage is not None and not self._usage_sent and not ended:
            self._usage_sent = True
            events.append(UsageUpdate(turn_id, first_sequence + len(events), self._usage))
        return events


class _Delta:
    """Text or thinking of one block, up to the maximum length of an event."""

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
    """An event that is not split into deltas."""

    __slots__ = ("_event",)

    def __init__(self, event: ReplyToolUse | ReplyToolResult | ReplyCompaction) -> None:
        self._event = event

    def event(self, turn_id: str, sequence: int) -> MiddleEvent:
        match self._event:
            case ReplyToolUse(block_index, block):
                return ToolUse(turn_id, sequence, block_index, block)
            case ReplyToolResult(block_index, block):
                return ToolResult(turn_id, sequence, block_index, block)
            case ReplyCompaction(block_index, block):
                return Compaction(turn_id, sequence, block_index, block)
