"""A running turn, as its subscribers see it."""

import asyncio
from collections import deque
from collections.abc import Sequence

from metamorphd.chat.generation import Generation
from metamorphd.models.content import TextBlock
from metamorphd.models.turn import TextDelta, ThinkingDelta, ToolResult, ToolUse, Turn, TurnEvent

# The committed events of a turn that are kept in memory. Subscribers that are further behind read the table.
TAIL_EVENTS = 256
TAIL_CHARACTERS = 262_144


class LiveTurn:
    """The latest committed events of a turn, and a way to wait for the next one.

    `life` is that of the vault in which the turn began.
    """

    def __init__(self, *, turn: Turn, life: str | None, generation: Generation) -> None:
        self.turn = turn
        self.life = life
        self.generation = generation
        self.last_sequence = 0
        self._tail: deque[TurnEvent] = deque()
        self._characters = 0
        self._changed = asyncio.Event()

    def publish(self, events: Sequence[TurnEvent]) -> None:
        """Publishes committed events, which continue the sequence, to all subscribers."""
        for event in events:
            self._tail.append(event)
            self._characters += _characters(event)
            self.last_sequence = event.sequence
        while len(self._tail) > TAIL_EVENTS or (self._characters > TAIL_CHARACTERS and len(self._tail) > 1):
            self._characters -= _characters(self._tail.popleft())
        self.wake()

    def wake(self) -> None:
        """Wakes all subscribers that wait in `changed`."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def after(self, sequence: int) -> list[TurnEvent] | None:
        """Returns the published events after `sequence`, or None if they must be read from the table.

        That is if the tail no longer has them all, or if `sequence` is not published yet: a subscriber that reads the
        table may see an event between its commit and its publication.
        """
        first = self._tail[0].sequence
        if not first <= sequence + 1 <= self.last_sequence + 1:
            return None
        return [self._tail[index] for index in range(sequence + 1 - first, len(self._tail))]

    async def changed(self) -> None:
        """Returns after the next `publish` or `wake`."""
        await self._changed.wait()


def _characters(event: TurnEvent) -> int:
    match event:
        case TextDelta() | ThinkingDelta():
            return len(event.text)
        case ToolUse():
            return len(event.block.input)
        case ToolResult():
            return sum(len(part.text) for part in event.block.content if isinstance(part, TextBlock))
    return 0
