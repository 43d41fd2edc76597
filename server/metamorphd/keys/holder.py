"""Who holds the keys that wrap data keys."""

from typing import Protocol

from metamorphd.errors import EncryptionNotConfigured
from metamorphd.keys.sealing import Binding


class KeyHolder(Protocol):
    """Holds key-encryption keys, one of which wraps data keys now. Others only unwrap.

    A holder that asks another computer caches what it unwraps: every call about a secret unwraps a data key.
    """

    @property
    def key_id(self) -> str:
        """The ID of the key that wraps now. Reveals nothing of the key. Raises EncryptionNotConfigured."""

    @property
    def key_time(self) -> int | None:
        """When that key came into use, in microseconds, or None if it is not known."""

    async def wrap(self, key: bytes, *, binding: Binding, nonce: bytes) -> tuple[str, bytes]:
        """Returns the ID of the key that wraps now, and a key of 32 bytes wrapped by it.

        It can be unwrapped with the same binding only, to which the wrapping key's ID belongs. `nonce` is 12 random
        bytes. Raises EncryptionNotConfigured.
        """

    async def unwrap(self, wrapped: bytes, *, key_id: str, binding: Binding) -> bytes:
        """Returns a key that `key_id` wrapped.

        Raises KeyUnavailable if that key is not held, SealBroken if it did not wrap this, EncryptionNotConfigured.
        """

    async def holds(self, key_id: str) -> bool:
        """Returns whether this has the key with an ID, to unwrap with at least."""

    async def rotate(self, *, now: int) -> None:
        """Makes a new key, which wraps once this returns. Does nothing if only the operator can do that.

        Raises EncryptionNotConfigured, KeyUnavailable.
        """


class NoKeys:
    """Holds no key: the setting that has one is missing."""

    key_time = None

    @property
    def key_id(self) -> str:
        raise EncryptionNotConfigured

    async def wrap(self, key: bytes, *, binding: Binding, nonce: bytes) -> tuple[str, bytes]:
        raise EncryptionNotConfigured

    async def unwrap(self, wrapped: bytes, *, key_id: str, binding: Binding) -> bytes:
        raise EncryptionNotConfigured

    async def holds(self, key_id: str) -> bool:
        return False

    async def rotate(self, *, now: int) -> None:
        raise EncryptionNotConfigured
