"""Key-encryption keys in this process's memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from metamorphd.errors import KeyUnavailable
from metamorphd.keys.sealing import Binding, derived, seal, unseal

KEY_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key-encryption key of 32 bytes. `key_time` is when it came into use, in microseconds, or None."""

    key: bytes = field(repr=False)
    key_time: int | None

    @property
    def key_id(self) -> str:
        """Returns 16 hexadecimal digits, which are derived from the key one way."""
        return derived(self.key, purpose=b"key id", length=KEY_ID_BYTES).hex()


class Ring:
    """Wraps with the first of its keys, and unwraps with all."""

    def __init__(self, keys: Sequence[WrappingKey]) -> None:
        self._current = keys[0]
        self._key_id = keys[0].key_id
        self._keys = {key.key_id: key.key for key in keys}

    @property
    def key_id(self) -> str:
        """The ID of the key that wraps."""
        return self._key_id

    @property
    def key_time(self) -> int | None:
        """When the key that wraps came into use, in microseconds, or None."""
        return self._current.key_time

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def wrap(self, key: bytes, *, binding: Binding, nonce: bytes) -> tuple[str, bytes]:
        """As `KeyHolder.wrap`."""
        return self._key_id, seal(self._current.key, key, binding=(*binding, self._key_id), nonce=nonce)

    def unwrap(self, wrapped: bytes, *, key_id: str, binding: Binding) -> bytes:
        """As `KeyHolder.unwrap`."""
        key = self._keys.get(key_id)
        if key is None:
            raise KeyUnavailable(key_id=key_id)
        return unseal(key, wrapped, binding=(*binding, key_id))
