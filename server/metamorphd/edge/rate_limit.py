"""The generic cell rate algorithm (ITU-T I.371), one number a key."""

import time
from collections.abc import Callable, Hashable
from typing import Self

# Beyond so many keys, those that have their whole allowance again are forgotten.
KEYS = 100_000


class MemoryLimits:
    """Makes limits that this process keeps for itself."""

    def limit(self, name: str, *, requests: int, window_seconds: float) -> "RateLimit":
        """A limit of its own, whatever its name."""
        return RateLimit(requests=requests, window_seconds=window_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Has nothing to close."""


class RateLimit:
    """Lets `requests` through in `window_seconds`, at once or spread; 0 requests is no limit. `now` in seconds."""

    def __init__(self, *, requests: int, window_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._unlimited = requests == 0
        self._interval = window_seconds / max(requests, 1)
        self._tolerance = window_seconds - self._interval
        self._now = now
        self._arrivals: dict[Hashable, float] = {}

    def take(self, key: Hashable) -> float:
        """Takes one request of a key's allowance; answers 0, or the seconds until there is one, and takes none."""
        if self._unlimited:
            return 0.0
        now = self._now()
        # When the key would next be due, if it kept to its rate.
        arrival = max(self._arrivals.get(key, now), now)
        wait = self._wait(arrival, now)
        if wait > 0:
            return wait
        self._arrivals[key] = arrival + self._interval
        if len(self._arrivals) > KEYS:
            self._forget(now)
        return 0.0

    def wait(self, key: Hashable) -> float:
        """What `take` would answer; takes nothing."""
        now = self._now()
        return 0.0 if self._unlimited else self._wait(self._arrivals.get(key, now), now)

    def _wait(self, arrival: float, now: float) -> float:
        wait = arrival - self._tolerance - now
        # A sum of intervals may pass the tolerance by rounding.
        return wait if wait > self._interval * 1e-6 else 0.0

    def _forget(self, now: float) -> None:
        """Drops the keys that are due, and the oldest tenth if that is not enough."""
        self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now}
        for key in list(self._arrivals)[: len(self._arrivals) - KEYS * 9 // 10]:
            del self._arrivals[key]
