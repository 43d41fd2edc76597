"""Key-encryption keys in a file of their own.

A line for each key, the current one last: when it was made (RFC 3339), a space, and the key's 32 bytes in hexadecimal.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from metamorphd.clock import rfc3339
from metamorphd.durable import replacing
from metamorphd.errors import KeyUnavailable, StartupRefused
from metamorphd.keys.ring import Ring, WrappingKey
from metamorphd.keys.sealing import KEY_BYTES, Binding

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([0-9a-f]{64})", re.ASCII)


class KeyFile:
    """Holds the keys of a file, which only its owner may read. Implements KeyHolder.

    Another server may add a key to the file, so it is read again when a key is missing.
    """

    def __init__(self, path: Path, *, previous: Sequence[WrappingKey] = ()) -> None:
        """Raises StartupRefused if the file is missing, has no key, or can be read by others.

        `previous` are keys from elsewhere, which only unwrap.
        """
        self._path = path
        self._previous = previous
        self._read()

    @property
    def key_id(self) -> str:
        return self._ring.key_id

    @property
    def key_time(self) -> int | None:
        return self._ring.key_time

    async def wrap(self, key: bytes, *, binding: Binding, nonce: bytes) -> tuple[str, bytes]:
        return self._ring.wrap(key, binding=binding, nonce=nonce)

    async def unwrap(self, wrapped: bytes, *, key_id: str, binding: Binding) -> bytes:
        await self.holds(key_id)
        return self._ring.unwrap(wrapped, key_id=key_id, binding=binding)

    async def holds(self, key_id: str) -> bool:
        if key_id not in self._ring:
            # What was read before stays if the file is gone.
            with contextlib.suppress(StartupRefused):
                await asyncio.to_thread(self._read)
        return key_id in self._ring

    async def rotate(self, *, now: int) -> None:
        """Adds a new key to the file, durably, before anything is wrapped by it.

        Raises KeyUnavailable if the file is gone, or has lost the current key: what that wraps would be lost, too.
        """
        await asyncio.to_thread(add_key, self._path, now=now, beside=self.key_id)
        await asyncio.to_thread(self._read)

    def _read(self) -> None:
        self._ring = Ring([*read_keys(self._path), *self._previous])


def read_keys(path: Path) -> list[WrappingKey]:
    """Returns the keys of a file, the current one first. Raises StartupRefused, whose message has no key."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise StartupRefused("TOKEN_ENCRYPTION_KEY_FILE can be read by others; run `chmod 600` on it")
        keys = list(_parsed(path.read_text()))
    except (OSError, UnicodeDecodeError):
        raise StartupRefused(
            "TOKEN_ENCRYPTION_KEY_FILE cannot be read; make one with `metamorph keys create`"
        ) from None
    if not keys:
        raise StartupRefused("TOKEN_ENCRYPTION_KEY_FILE has no key; make one with `metamorph keys create`")
    return keys[::-1]


def _parsed(text: str) -> Iterator[WrappingKey]:
    for number, line in enumerate(text.splitlines(), 1):
        found = LINE.fullmatch(line)
        if found is None:
            raise StartupRefused(f"TOKEN_ENCRYPTION_KEY_FILE has no key in line {number}; restore it from a copy")
        made = datetime.fromisoformat(found[1])
        yield WrappingKey(bytes.fromhex(found[2]), int(made.timestamp() * 1e6))


def add_key(path: Path, *, now: int, beside: str | None = None) -> None:
    """Adds a random key to a file, which is made if need be. The file is whole and durable before and after.

    Raises OSError, and KeyUnavailable if the file does not have the key with the ID `beside`. May be called by several
    threads and processes at once: each waits for the one before.
    """
    # What a lost key has wrapped is lost, too, so no two may write the same file. The file itself is replaced.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if beside is not None:
            _require_key(path, beside)
        earlier = path.read_text() if path.exists() else ""
        with replacing(path) as file:
            file.write(f"{earlier}{rfc3339(now)} {os.urandom(KEY_BYTES).hex()}\n")
    finally:
        os.close(directory)


def _require_key(path: Path, key_id: str) -> None:
    try:
        held = {key.key_id for key in read_keys(path)}
    except StartupRefused:
        held = set()
    if key_id not in held:
        raise KeyUnavailable(key_id=key_id)
