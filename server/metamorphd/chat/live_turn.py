"""A running turn, as those who follow it see it."""

import asyncio
from collections import deque
from collections.abc import Sequence

from metamorphd.chat.generation import Generation
from metamorphd.models.turn import TextDelta, ThinkingDelta, ToolUse, Turn, TurnEvent

# What is kept in memory of a turn's committed events; who is further behind reads the table.
TAIL_EVENTS = 256
TAIL_CHARACTERS = 262_144


class LiveTurn:
    """The tail of a turn's committed events, and a way to wait for the next one."""

    def __init__(self, *, turn: Turn, generation: Generation) -> None:
        self.turn = turn
        self.generation = generation
        self.last_sequence = 0
        self._tail: deque[TurnEvent] = deque()
        self._characters = 0
        self._changed = asyncio.Event()

    def publish(self, events: Sequence[TurnEvent]) -> None:
        """Shows committed events to all who follow. They continue the sequence."""
        for event in events:
            self._tail.append(event)
            self._characters += _characters(event)
            self.last_sequence = event.sequence
        while len(self._tail) > TAIL_EVENTS or (self._characters > TAIL_CHARACTERS and len(self._tail) > 1):
            self._characters -= _characters(self._tail.popleft())
        self.wake()

    def wake(self) -> None:
        """Lets all who wait look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def after(self, sequence: int) -> list[TurnEvent] | None:
        """The published events after `sequence`; None where only the table can tell.

        That is if the tail no longer holds them all, and if `sequence` was not published yet: whoever replays from the
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
    return 0
