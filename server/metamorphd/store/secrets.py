"""Secrets. Their values are encrypted before they come here, and decrypted after they left."""

from collections.abc import Mapping

import orjson

from metamorphd.errors import (
    SecretNotFound,
    SecretVersionDestroyed,
    SecretVersionMismatch,
    SecretVersionNotFound,
)
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.data_key import DataKey
from metamorphd.models.page import Page
from metamorphd.models.secret import NewVersion, Place, SealedVersion, Secret, SecretState, SecretVersion
from metamorphd.store.changes import append_change
from metamorphd.store.data_keys import create_data_key, find_data_key
from metamorphd.store.database import Row, SqlValue, SystemTransaction, Transaction, grows
from metamorphd.store.idempotency import IdempotencyKey, claim_request
from metamorphd.store.storage import require_storage
from metamorphd.store.vaults import create_vault

# Older ones are erased.
MOST_VERSIONS = 20
# Above every version, so that the first page begins at the newest one.
END_OF_VERSIONS = 2**31

GET_SECRET = """
SELECT secret_id, version FROM secrets
WHERE vault_id = :vault_id AND name = :name AND (expire_time IS NULL OR expire_time > :now)
"""
PUT_SECRET = """
INSERT INTO secrets (vault_id, name, secret_id, version, labels, creator, create_time, update_time, expire_time)
VALUES (:vault_id, :name, :secret_id, :version, :labels, :creator, :now, :now, :expire_time)
ON CONFLICT (vault_id, name) DO UPDATE SET
    version = excluded.version, labels = excluded.labels, update_time = excluded.update_time,
    expire_time = excluded.expire_time
"""
CREATE_VERSION = """
INSERT INTO secret_versions (vault_id, name, version, data_key_id, sealed_value, creator, create_time)
VALUES (:vault_id, :name, :version, :data_key_id, :sealed_value, :creator, :now)
"""
DELETE_OLD_VERSIONS = """
DELETE FROM secret_versions WHERE vault_id = :vault_id AND name = :name AND version <= :last
"""
# Version 0 is the newest. There is a row if there is a secret.
GET_SEALED = """
SELECT secret_id, stored.version, stored.creator, stored.create_time, destroy_time, sealed_value, stored.data_key_id,
    wrapping_key_id, wrapped_key
FROM secrets
LEFT JOIN secret_versions AS stored
    ON stored.vault_id = :vault_id AND stored.name = secrets.name
    AND stored.version = CASE WHEN :version = 0 THEN secrets.version ELSE :version END
LEFT JOIN data_keys
    ON data_keys.vault_id = :vault_id AND data_keys.data_key_id = stored.data_key_id
WHERE secrets.vault_id = :vault_id AND secrets.name = :name AND (expire_time IS NULL OR expire_time > :now)
"""
GET_VERSION = """
SELECT name, version, creator, create_time, destroy_time FROM secret_versions
WHERE vault_id = :vault_id AND name = :name AND version = :version
"""
LIST_SECRETS = """
SELECT name, version, labels, creator, create_time, update_time, expire_time FROM secrets
WHERE vault_id = :vault_id AND name > :after
ORDER BY name
LIMIT :limit
"""
LIST_VERSIONS = """
SELECT name, version, creator, create_time, destroy_time FROM secret_versions
WHERE vault_id = :vault_id AND name = :name AND version < :before
ORDER BY version DESC
LIMIT :limit
"""
DESTROY_VERSION = """
UPDATE secret_versions SET sealed_value = NULL, destroy_time = :now
WHERE vault_id = :vault_id AND name = :name AND version = :version AND destroy_time IS NULL
"""
DELETE_SECRET = "DELETE FROM secrets WHERE vault_id = :vault_id AND name = :name"
DELETE_EXPIRED = "DELETE FROM secrets WHERE vault_id = :vault_id AND name = :name AND expire_time <= :now"
LIST_EXPIRED = """
SELECT vault_id, name FROM secrets WHERE expire_time <= :now ORDER BY expire_time, vault_id, name LIMIT :limit
"""


class StateChanged(Exception):
    """Another call has stored a version since the value was sealed, so it must be sealed anew."""


async def get_secret_state(tx: Transaction, *, name: str, now: int) -> SecretState:
    """Returns what a new version of a secret depends on."""
    row = await tx.one(GET_SECRET, name=name, now=now)
    data_key = await find_data_key(tx)
    return SecretState(None, 0, data_key) if row is None else SecretState(row.secret_id, row.version, data_key)


@grows
async def put_secret(
    tx: Transaction,
    *,
    new: NewVersion,
    place: Place,
    sealed_value: bytes,
    state: SecretState,
    data_key: DataKey,
    request: IdempotencyKey | None,
    hash_key: bytes,
    now: int,
    value_hmac: str = "",
    storage_limit: int = 0,
) -> SecretVersion:
    """Stores a version, or returns the one that `request` stored.

    `sealed_value` is the value, encrypted by `data_key` for `place`, which follows from `state`. `value_hmac` is for an
    audit. Raises StateChanged if the state is another one, SecretVersionMismatch, StorageQuotaExceeded,
    RequestIdReused, and SecretVersionNotFound if what `request` stored is gone.
    """
    await create_vault(tx, hash_key=hash_key, now=now)
    if request is not None:
        made = await claim_request(tx, request=request, resource_id=_resource_id(place), now=now)
        if made != _resource_id(place):
            return await _put_before(tx, name=new.name, resource_id=made, now=now)
    found = await get_secret_state(tx, name=new.name, now=now)
    if new.expected_version is not None and new.expected_version != found.version:
        raise SecretVersionMismatch(version=found.version)
    if _without_wrapping(found) != _without_wrapping(state):
        raise StateChanged
    labels = _encoded(new.labels)
    added = len(sealed_value) + len(labels.encode()) + len(new.name)
    await require_storage(tx, added_bytes=added, default_limit=storage_limit)
    if found.data_key is None:
        await create_data_key(tx, data_key=data_key, now=now)
    if found.secret_id is None:
        await expire_secret(tx, name=new.name, now=now)
    made_by: dict[str, SqlValue] = {"creator": tx.scope.actor.user_id, "now": now}
    await tx.run(
        PUT_SECRET,
        name=new.name,
        secret_id=place.secret_id,
        version=place.version,
        labels=labels,
        expire_time=new.expire_time,
        **made_by,
    )
    await tx.run(
        CREATE_VERSION,
        name=new.name,
        version=place.version,
        data_key_id=data_key.data_key_id,
        sealed_value=sealed_value,
        **made_by,
    )
    await tx.run(DELETE_OLD_VERSIONS, name=new.name, last=place.version - MOST_VERSIONS)
    verb = ChangeVerb.CREATED if found.secret_id is None else ChangeVerb.UPDATED
    await _append(tx, new.name, verb, now, version=str(place.version), value_hmac=value_hmac)
    return await _get_version(tx, name=new.name, version=place.version)


def _resource_id(place: Place) -> str:
    return f"{place.secret_id}.{place.version}"


def _without_wrapping(state: SecretState) -> tuple[str | None, int, str | None]:
    """Returns what matters to a sealed value. A data key that was wrapped anew is the same."""
    return state.secret_id, state.version, None if state.data_key is None else state.data_key.data_key_id


async def _put_before(tx: Transaction, *, name: str, resource_id: str, now: int) -> SecretVersion:
    secret_id, _, version = resource_id.rpartition(".")
    found = await tx.one(GET_SECRET, name=name, now=now)
    if found is None or found.secret_id != secret_id:
        raise SecretVersionNotFound(name=name, version=version)
    return await _get_version(tx, name=name, version=int(version))


async def read_secret(tx: Transaction, *, name: str, version: int, now: int) -> tuple[SecretVersion, SealedVersion]:
    """Returns a version, 0 for the newest, and its encrypted value. That it was read is in the vault's log.

    Raises SecretNotFound, SecretVersionNotFound, SecretVersionDestroyed.
    """
    row = await tx.one(GET_SEALED, name=name, version=version, now=now)
    if row is None:
        raise SecretNotFound(name=name)
    if row.version is None:
        raise SecretVersionNotFound(name=name, version=version)
    if row.destroy_time is not None:
        raise SecretVersionDestroyed(name=name, version=row.version)
    data_key = None
    if row.wrapped_key is not None:
        data_key = DataKey(row.data_key_id, row.wrapping_key_id, row.wrapped_key)
    place = Place(row.secret_id, name, row.version)
    await _append(tx, name, ChangeVerb.READ, now, version=str(row.version))
    return (
        SecretVersion(name, row.version, row.creator, row.create_time, None),
        SealedVersion(place, row.sealed_value, row.data_key_id, data_key),
    )


async def list_secrets(tx: Transaction, *, after: str, page_size: int, now: int) -> Page[Secret]:
    """Returns secrets by name, from the first one after `after`. Expired ones shorten the page."""
    rows = await tx.all(LIST_SECRETS, after=after, limit=page_size + 1)
    visited = rows[:page_size]
    shown = [row for row in visited if row.expire_time is None or row.expire_time > now]
    return Page(tuple(map(_secret, shown)), (visited[-1].name,) if len(rows) > page_size else None)


async def list_secret_versions(
    tx: Transaction, *, name: str, before: int, page_size: int, now: int
) -> Page[SecretVersion]:
    """Returns the versions of a secret that are kept, from the newest one before `before`. Raises SecretNotFound."""
    await _require_secret(tx, name=name, now=now)
    rows = await tx.all(LIST_VERSIONS, name=name, before=before, limit=page_size + 1)
    shown = rows[:page_size]
    return Page(tuple(map(_version, shown)), (shown[-1].version,) if len(rows) > page_size else None)


async def destroy_secret_version(tx: Transaction, *, name: str, version: int, now: int) -> SecretVersion:
    """Erases the value of a version, unless that was done. Raises SecretNotFound, SecretVersionNotFound."""
    await _require_secret(tx, name=name, now=now)
    if await tx.run(DESTROY_VERSION, name=name, version=version, now=now):
        await _append(tx, name, ChangeVerb.DESTROYED, now, version=str(version))
    return await _get_version(tx, name=name, version=version)


async def delete_secret(tx: Transaction, *, name: str, expected_version: int | None, now: int) -> None:
    """Erases a secret with all of its versions. Raises SecretNotFound, SecretVersionMismatch.

    `expected_version` is the newest version that must be in force; None is unconditional.
    """
    found = await _require_secret(tx, name=name, now=now)
    if expected_version is not None and expected_version != found.version:
        raise SecretVersionMismatch(version=found.version)
    await tx.run(DELETE_SECRET, name=name)
    await _append(tx, name, ChangeVerb.DELETED, now)


async def expire_secret(tx: Transaction, *, name: str, now: int) -> None:
    """Erases a secret that has expired, unless it was put again."""
    if await tx.run(DELETE_EXPIRED, name=name, now=now):
        await _append(tx, name, ChangeVerb.DELETED, now)


async def list_expired_secrets(tx: SystemTransaction, *, now: int, limit: int) -> list[tuple[str, str]]:
    """Returns vault and name of secrets that have expired, the first to expire first."""
    return [(row.vault_id, row.name) for row in await tx.all(LIST_EXPIRED, now=now, limit=limit)]


async def _append(tx: Transaction, name: str, verb: ChangeVerb, now: int, **details: str) -> None:
    await append_change(
        tx, resource=ChangedResource.SECRET, resource_id=name, verb=verb, now=now, details=details or None
    )


async def _require_secret(tx: Transaction, *, name: str, now: int) -> Row:
    found = await tx.one(GET_SECRET, name=name, now=now)
    if found is None:
        raise SecretNotFound(name=name)
    return found


async def _get_version(tx: Transaction, *, name: str, version: int) -> SecretVersion:
    row = await tx.one(GET_VERSION, name=name, version=version)
    if row is None:
        raise SecretVersionNotFound(name=name, version=version)
    return _version(row)


def _encoded(labels: Mapping[str, str]) -> str:
    return orjson.dumps(dict(labels), option=orjson.OPT_SORT_KEYS).decode()


def _secret(row: Row) -> Secret:
    return Secret(
        name=row.name,
        version=row.version,
        labels=orjson.loads(row.labels),
        expire_time=row.expire_time,
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _version(row: Row) -> SecretVersion:
    return SecretVersion(row.name, row.version, row.creator, row.create_time, row.destroy_time)
