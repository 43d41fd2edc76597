"""Secrets in a store, and attempts to have one read that is not where it was put."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from metamorphd.clock import Clock
from metamorphd.errors import CiphertextDamaged, KeyUnavailable
from metamorphd.keys.environment import EnvironmentKeys
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.secret import NewVersion
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.database import Database, Transaction

from tests.support.engines import ENGINES
from tests.support.rows import scope_of

KEY = "k" * 32
VAULTS, NAMES, VERSIONS = ("acme", "evil", "third"), ("a", "b", "c"), (1, 2, 3)
READ = """
SELECT secret_id, stored.data_key_id, sealed_value, wrapping_key_id, wrapped_key
FROM secrets JOIN secret_versions AS stored ON stored.vault_id = :vault_id AND stored.name = secrets.name
JOIN data_keys ON data_keys.vault_id = :vault_id
WHERE secrets.vault_id = :vault_id AND secrets.name = :name AND stored.version = :version
"""
WRITE_SECRET = "UPDATE secrets SET secret_id = :secret_id WHERE vault_id = :vault_id AND name = :name"
WRITE_VERSION = """
UPDATE secret_versions SET data_key_id = :data_key_id, sealed_value = :sealed_value
WHERE vault_id = :vault_id AND name = :name AND version = :version
"""
WRITE_KEY = """
UPDATE data_keys SET data_key_id = :data_key_id, wrapping_key_id = :wrapping_key_id, wrapped_key = :wrapped_key
WHERE vault_id = :vault_id
"""


@dataclass(frozen=True)
class Stored:
    """All that is stored of a version, in any table."""

    secret_id: str
    data_key_id: str
    sealed_value: bytes
    wrapping_key_id: str
    wrapped_key: bytes


# Where a version is: vault, name, version.
Place = tuple[str, str, int]
Change = Callable[[Stored, Stored, random.Random], Stored]


def flipped(value: bytes, randomness: random.Random) -> bytes:
    """Returns a value with one bit changed."""
    changed = bytearray(value)
    bit = randomness.randrange(8 * len(changed))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# By name: what becomes of a version, given another one, of another vault, secret or number.
CHANGES: dict[str, Change] = {
    "value of another": lambda own, other, _: replace(own, sealed_value=other.sealed_value),
    "value and key's id of another": lambda own, other, _: replace(
        own, sealed_value=other.sealed_value, data_key_id=other.data_key_id
    ),
    "value and secret's id of another": lambda own, other, _: replace(
        own, sealed_value=other.sealed_value, secret_id=other.secret_id
    ),
    "all of another": lambda own, other, _: other,
    "wrapped key as value": lambda own, other, _: replace(own, sealed_value=other.wrapped_key),
    "value as wrapped key": lambda own, other, _: replace(own, wrapped_key=other.sealed_value),
    "value and wrapped key swapped": lambda own, other, _: replace(
        own, sealed_value=own.wrapped_key, wrapped_key=own.sealed_value
    ),
    "a bit of the value": lambda own, other, randomness: replace(
        own, sealed_value=flipped(own.sealed_value, randomness)
    ),
    "a bit of the wrapped key": lambda own, other, randomness: replace(
        own, wrapped_key=flipped(own.wrapped_key, randomness)
    ),
    "a part of the value": lambda own, other, randomness: replace(
        own, sealed_value=own.sealed_value[: randomness.randrange(len(own.sealed_value))]
    ),
    "another secret's id": lambda own, other, randomness: replace(own, secret_id=f"sec_{randomness.random()}"),
}


async def _read(tx: Transaction, *, name: str, version: int) -> Stored:
    row = await tx.one(READ, name=name, version=version)
    assert row is not None
    return Stored(row.secret_id, row.data_key_id, row.sealed_value, row.wrapping_key_id, row.wrapped_key)


async def _write(tx: Transaction, *, name: str, version: int, stored: Stored) -> None:
    await tx.run(WRITE_SECRET, name=name, secret_id=stored.secret_id)
    await tx.run(
        WRITE_VERSION,
        name=name,
        version=version,
        data_key_id=stored.data_key_id,
        sealed_value=stored.sealed_value,
    )
    await tx.run(
        WRITE_KEY,
        data_key_id=stored.data_key_id,
        wrapping_key_id=stored.wrapping_key_id,
        wrapped_key=stored.wrapped_key,
    )


class Sealed:
    """Three versions of three secrets in each of three vaults. What is done to one is undone afterwards."""

    def __init__(self, database: Database) -> None:
        self._database = database
        keys = VaultKeys(EnvironmentKeys([KEY], key_time=None))
        self.secrets = Secrets(database=database, keys=keys, clock=Clock(), storage_limit=0)
        self.places = [(vault, name, version) for vault in VAULTS for name in NAMES for version in VERSIONS]

    async def plant(self) -> None:
        """Puts the secrets."""
        for vault, name, version in self.places:
            new = NewVersion(name, None, {}, None)
            await self.secrets.put(scope_of(vault), new, value=f"{vault} {name} {version}".encode(), request=None)

    async def value(self, place: Place) -> bytes:
        """Returns the value of a version."""
        vault, name, version = place
        _, value, _ = await self.secrets.get(scope_of(vault), name=name, version=version)
        return value

    async def decrypts(self, place: Place, other: Place, change: Change, randomness: random.Random) -> bool:
        """Changes what is stored of a version, and returns whether anything could be read then."""
        own, another = await self._stored(place), await self._stored(other)
        changed = change(own, another, randomness)
        assert astuple(changed) != astuple(own)
        await self._store(place, changed)
        try:
            await self.value(place)
        except (CiphertextDamaged, KeyUnavailable):
            return False
        finally:
            await self._store(place, own)
        return True

    async def _stored(self, place: Place) -> Stored:
        vault, name, version = place
        return await self._database.read(_read, scope_of(vault), name=name, version=version)

    async def _store(self, place: Place, stored: Stored) -> None:
        vault, name, version = place
        await self._database.write(_write, scope_of(vault), name=name, version=version, stored=stored)


@asynccontextmanager
async def sealed(directory: Path) -> AsyncIterator[Sealed]:
    """Yields secrets in a store of the usual engine."""
    async with ENGINES[0].database(directory) as database:
        planted = Sealed(database)
        await planted.plant()
        yield planted
