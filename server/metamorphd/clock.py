"""Time, ids, keys, and calendar days."""

import os
import time
from datetime import UTC, date, datetime, timedelta

KEY_BYTES = 32
POOL_BYTES = 8192


class Clock:
    """The system's time and randomness. Tests pass a clock of their own.

    Randomness is fetched in bulk, because each fetch releases the GIL, and calls would wait to get it back.
    """

    def __init__(self) -> None:
        self._pool = b""

    def now(self) -> int:
        """Returns the time in microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def new_id(self, prefix: str) -> str:
        """Returns a new unique id of at most 64 characters: the prefix and a UUIDv7 (RFC 9562, section 5.7).

        Ids sort by age, to the millisecond.
        """
        random = int.from_bytes(self._random(10))
        value = time.time_ns() // 1_000_000 << 80 | random & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
        return f"{prefix}_{value:032x}"

    def new_key(self) -> bytes:
        """Returns 32 random bytes."""
        return self._random(KEY_BYTES)

    def _random(self, count: int) -> bytes:
        if len(self._pool) < count:
            self._pool = os.urandom(POOL_BYTES)
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken


def day_of(now: int) -> date:
    """Returns the day (UTC) of a time."""
    return datetime.fromtimestamp(now // 1_000_000, UTC).date()


def beginning(day: date) -> int:
    """Returns the time at which a day (UTC) begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def next_day(day: date) -> date:
    """Returns the next day."""
    return day + timedelta(days=1)


def next_month(day: date) -> date:
    """Returns the first day of the next month."""
    # Every month has a 28th, and four days later is always in the next month.
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


def rfc3339(now: int) -> str:
    """Returns a time as text (RFC 3339), to the second: `2026-12-01T00:00:00Z`."""
    return f"{datetime.fromtimestamp(now // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
