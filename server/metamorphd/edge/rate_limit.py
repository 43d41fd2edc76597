"""Rate limits by the generic cell rate algorithm (ITU-T I.371), which stores one number per key."""

import time
from collections.abc import Callable, Hashable
from typing import Self

# Above this number, keys whose allowance is fully restored are dropped.
KEYS = 100_000


class MemoryLimits:
    """Creates limits that are local to this process."""

    def limit(self, name: str, *, requests: int, window_seconds: float) -> "RateLimit":
        """Returns a new limit. The name is not used."""
        return RateLimit(requests=requests, window_seconds=window_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Does nothing."""


class RateLimit:
    """Admits `requests` per `window_seconds`, in a burst or spread out; 0 means no limit. `now` is in seconds."""

    def __init__(self, *, requests: int, window_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._unlimited = requests == 0
        self._interval = window_seconds / max(requests, 1)
        self._tolerance = window_seconds - self._interval
        self._now = now
        self._arrivals: dict[Hashable, float] = {}

    def take(self, key: Hashable) -> float:
        """Takes one request from a key's allowance and returns 0, or returns the seconds until one is available."""
        if self._unlimited:
            return 0.0
        now = self._now()
        # The theoretical arrival time: when the next request would come at a steady rate.
        arrival = max(self._arrivals.get(key, now), now)
        wait = self._wait(arrival, now)
        if wait > 0:
            return wait
        self._arrivals[key] = arrival + self._interval
        if len(self._arrivals) > KEYS:
            self._forget(now)
        return 0.0

    def charge(self, key: Hashable, count: int) -> None:
        """Takes `count` requests from a key's allowance, which may leave less than none."""
        now = self._now()
        self._arrivals[key] = max(self._arrivals.get(key, now), now) + count * self._interval
        if len(self._arrivals) > KEYS:
            self._forget(now)

    def charged(self, key: Hashable) -> bool:
        """Returns whether something of a key's allowance is taken."""
        return self._arrivals.get(key, 0.0) > self._now()

    def wait(self, key: Hashable) -> float:
        """Returns what `take` would return, without taking a request."""
        now = self._now()
        return 0.0 if self._unlimited else self._wait(self._arrivals.get(key, now), now)

    def _wait(self, arrival: float, now: float) -> float:
        wait = arrival - self._tolerance - now
        # Rounding may push a sum of intervals slightly above the tolerance.
        return wait if wait > self._interval * 1e-6 else 0.0

    def _forget(self, now: float) -> None:
        """Drops the keys whose allowance is fully restored, and the oldest tenth if that is not enough."""
        self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now}
        for key in list(self._arrivals)[: len(self._arrivals) - KEYS * 9 // 10]:
            del self._arrivals[key]
