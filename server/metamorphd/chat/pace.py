"""The pace at which replies are read: at once while few turns run, at moments shared by all turns when many do."""

import asyncio
from collections.abc import Callable

# Up to this number of running turns, deltas are read and committed as they arrive. Each further turn adds to the wait.
UNPACED_TURNS = 4
PACE_SECONDS = 0.004
LONGEST_PACE = 0.2


class Pace:
    """Moments that all turns of a process share, so that they share wake-ups and commits."""

    def __init__(self, *, running_turns: Callable[[], int]) -> None:
        self._running_turns = running_turns
        self._waiting: list[asyncio.Event] = []

    def wake(self, event: asyncio.Event) -> bool:
        """Arranges for `event` to be set at the next moment. Returns False, and does nothing, while few turns run."""
        pace = min(max(0, self._running_turns() - UNPACED_TURNS) * PACE_SECONDS, LONGEST_PACE)
        if not pace:
            return False
        if not self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_later(pace - loop.time() % pace, self._wake_all)
        self._waiting.append(event)
        return True

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()
