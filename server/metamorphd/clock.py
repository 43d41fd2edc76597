"""Where time, ids and keys come from."""

import secrets
import time

import uuid6


class Clock:
    """The system's. Tests pass one of their own."""

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def new_id(self, prefix: str) -> str:
        """An id that nobody has had, at most 64 characters: the prefix and a UUIDv7 (RFC 9562), so ids sort by age."""
        return f"{prefix}_{uuid6.uuid7().hex}"

    def new_key(self) -> bytes:
        """32 random bytes."""
        return secrets.token_bytes(32)
