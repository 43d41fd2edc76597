"""Secrets, their versions, and how these are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from metamorphd.models.data_key import DataKey


@dataclass(frozen=True, slots=True)
class Secret:
    name: str
    version: int
    labels: Mapping[str, str]
    expire_time: int | None
    creator: str
    create_time: int
    update_time: int


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A version of a secret, without its value. `destroy_time` is None if that can be read."""

    name: str
    version: int
    creator: str
    create_time: int
    destroy_time: int | None


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to put, without its value. `expected_version` is the newest one in force: None for any, 0 for none."""

    name: str
    expected_version: int | None
    labels: Mapping[str, str]
    expire_time: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version is stored. Its ciphertext is bound to that, and can be read nowhere else.

    `secret_id` differs between two secrets that had the same name one after the other.
    """

    secret_id: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """The value of a version, encrypted with a data key of the vault.

    `data_key` is None if the vault does not have the key `data_key_id` any more.
    """

    place: Place
    sealed_value: bytes = field(repr=False)
    data_key_id: str
    data_key: DataKey | None


@dataclass(frozen=True, slots=True)
class SecretState:
    """The state that a new version follows: the secret of its name, if there is one, its newest version, or 0, and the
    vault's data key, if it has one."""

    secret_id: str | None
    version: int
    data_key: DataKey | None
