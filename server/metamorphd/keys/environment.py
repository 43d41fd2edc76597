"""Key-encryption keys from the environment."""

from collections.abc import Sequence

from metamorphd.keys.ring import Ring, WrappingKey
from metamorphd.keys.sealing import Binding, derived


def wrapping_key(text: str, *, key_time: int | None = None) -> WrappingKey:
    """Returns the key that is made of a text."""
    return WrappingKey(derived(text.encode(), purpose=b"key-encryption key"), key_time)


class EnvironmentKeys:
    """Holds the keys that are made of texts, TOKEN_ENCRYPTION_KEY first, then the previous ones. Implements KeyHolder.

    A text may have any form, since its bytes only go through HKDF. `key_time` is when the first came into use.
    """

    def __init__(self, texts: Sequence[str], *, key_time: int | None) -> None:
        first, *others = texts
        self._ring = Ring([wrapping_key(first, key_time=key_time), *map(wrapping_key, others)])

    @property
    def key_id(self) -> str:
        return self._ring.key_id

    @property
    def key_time(self) -> int | None:
        return self._ring.key_time

    async def wrap(self, key: bytes, *, binding: Binding, nonce: bytes) -> tuple[str, bytes]:
        return self._ring.wrap(key, binding=binding, nonce=nonce)

    async def unwrap(self, wrapped: bytes, *, key_id: str, binding: Binding) -> bytes:
        return self._ring.unwrap(wrapped, key_id=key_id, binding=binding)

    async def holds(self, key_id: str) -> bool:
        return key_id in self._ring

    async def rotate(self, *, now: int) -> None:
        """Does nothing: the operator has set another key, or has not."""
