"""How often errors are reported."""

import threading
from collections.abc import Callable, Hashable

# Kinds of errors that are remembered.
MOST_KINDS = 1_000
# Events of all kinds together in a minute.
MOST_EVENTS = 60


class Allowance:
    """One event in a minute for each kind of error, and `MOST_EVENTS` in all. Other threads may call it.

    `now` is a clock in seconds that never goes back.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._minute = -1
        self._events = 0
        # By kind, the oldest first: the minute of its last event, and how many were left out since.
        self._kinds: dict[Hashable, tuple[int, int]] = {}

    def admit(self, kind: Hashable) -> int | None:
        """Returns how many of this kind were left out since its last event, or None to leave out this one too."""
        with self._lock:
            minute = int(self._now() // 60)
            if minute != self._minute:
                self._minute, self._events = minute, 0
            last, left_out = self._kinds.pop(kind, (-1, 0))
            admitted = last != minute and self._events < MOST_EVENTS
            self._events += admitted
            self._kinds[kind] = (minute, 0) if admitted else (last, left_out + 1)
            if len(self._kinds) > MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            return left_out if admitted else None
