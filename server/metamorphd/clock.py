"""Where time, ids and keys come from."""

import os
import time

KEY_BYTES = 32
POOL_BYTES = 8192


class Clock:
    """The system's. Tests pass one of their own.

    Randomness is the system's, fetched in bulk: each fetch lets go of the interpreter, in the midst of every call.
    """

    def __init__(self) -> None:
        self._pool = b""

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def new_id(self, prefix: str) -> str:
        """An id that nobody has had, at most 64 characters: the prefix and a UUIDv7 (RFC 9562, section 5.7).

        Ids sort by age, to the millisecond.
        """
        random = int.from_bytes(self._random(10))
        value = time.time_ns() // 1_000_000 << 80 | random & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
        return f"{prefix}_{value:032x}"

    def new_key(self) -> bytes:
        """32 random bytes."""
        return self._random(KEY_BYTES)

    def _random(self, count: int) -> bytes:
        if len(self._pool) < count:
            self._pool = os.urandom(POOL_BYTES)
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken
