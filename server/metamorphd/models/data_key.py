"""The keys that encrypt what a vault stores."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DataKey:
    """A vault's data key as it is stored: wrapped by the key-encryption key `wrapping_key_id`."""

    data_key_id: str
    wrapping_key_id: str
    wrapped_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredDataKey:
    """A data key with its vault."""

    vault_id: str
    data_key: DataKey


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """The state of the keys.

    `key_id` is the key that wraps now, and `key_time` when it came into use, None if that is not known. `left` counts
    the data keys that another key wraps, the first 100,000 of them, and `unavailable` those among them whose key the
    server does not have, as far as it has seen. `operation_id` is the operation that rewraps them, empty if none does.
    """

    key_id: str
    key_time: int | None
    left: int
    unavailable: int
    operation_id: str = ""
