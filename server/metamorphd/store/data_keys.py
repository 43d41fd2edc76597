"""Data keys, wrapped."""

from collections.abc import Sequence

from metamorphd.models.data_key import DataKey, StoredDataKey
from metamorphd.store.database import SqlValue, SystemTransaction, Transaction

CREATE_DATA_KEY = """
INSERT INTO data_keys (vault_id, data_key_id, wrapping_key_id, wrapped_key, create_time, wrap_time)
VALUES (:vault_id, :data_key_id, :wrapping_key_id, :wrapped_key, :now, :now)
"""
GET_DATA_KEY = """
SELECT data_key_id, wrapping_key_id, wrapped_key FROM data_keys
WHERE vault_id = :vault_id
ORDER BY data_key_id DESC
LIMIT 1
"""
_WRAPPED = """
SELECT vault_id, data_key_id, wrapping_key_id, wrapped_key FROM data_keys
WHERE (wrapping_key_id, vault_id, data_key_id) > (:after_key_id, :after_vault_id, :after_data_key_id)"""
_IN_ORDER = " ORDER BY wrapping_key_id, vault_id, data_key_id LIMIT :limit"
# Not with <>, which would visit all that the current key wraps.
LIST_WRAPPED_BELOW = f"{_WRAPPED} AND wrapping_key_id < :key_id {_IN_ORDER}"
LIST_WRAPPED_ABOVE = f"{_WRAPPED} AND wrapping_key_id > :key_id {_IN_ORDER}"
COUNT_WRAPPED = """
SELECT COUNT(*) AS data_keys FROM (
    SELECT 1 AS found FROM data_keys WHERE wrapping_key_id < :key_id
    UNION ALL
    SELECT 1 AS found FROM data_keys WHERE wrapping_key_id > :key_id
    LIMIT :limit
) AS counted
"""
# A seek in the index, however many data keys a key wraps.
NEXT_WRAPPING_KEY = "SELECT MIN(wrapping_key_id) AS key_id FROM data_keys WHERE wrapping_key_id > :after"
# Unless it was wrapped anew meanwhile.
REWRAP_DATA_KEY = """
UPDATE data_keys SET wrapping_key_id = :wrapping_key_id, wrapped_key = :wrapped_key, wrap_time = :now
WHERE vault_id = :key_vault_id AND data_key_id = :data_key_id AND wrapping_key_id = :old_key_id
"""
MOST_COUNTED = 100_000
# There are two during a rotation, and others if it was not completed.
MOST_WRAPPING_KEYS = 100

# Before all data keys, in the order of a rotation: by the key that wraps them, vault and ID.
Position = tuple[str, str, str]
BEGINNING: Position = ("", "", "")


async def create_data_key(tx: Transaction, *, data_key: DataKey, now: int) -> None:
    """Stores a new data key of the vault, which is there."""
    await tx.run(
        CREATE_DATA_KEY,
        data_key_id=data_key.data_key_id,
        wrapping_key_id=data_key.wrapping_key_id,
        wrapped_key=data_key.wrapped_key,
        now=now,
    )


async def find_data_key(tx: Transaction) -> DataKey | None:
    """Returns the vault's data key, or None before its first secret."""
    row = await tx.one(GET_DATA_KEY)
    return None if row is None else DataKey(row.data_key_id, row.wrapping_key_id, row.wrapped_key)


async def list_data_keys_to_rewrap(
    tx: SystemTransaction, *, key_id: str, after: Position, limit: int
) -> list[StoredDataKey]:
    """Returns the next data keys, of all vaults, that another key than `key_id` wraps. Empty at the end."""
    after_key_id, after_vault_id, after_data_key_id = after
    page: dict[str, SqlValue] = {
        "key_id": key_id,
        "after_key_id": after_key_id,
        "after_vault_id": after_vault_id,
        "after_data_key_id": after_data_key_id,
        "limit": limit,
    }
    rows = await tx.all(LIST_WRAPPED_BELOW, **page) or await tx.all(LIST_WRAPPED_ABOVE, **page)
    return [StoredDataKey(row.vault_id, DataKey(row.data_key_id, row.wrapping_key_id, row.wrapped_key)) for row in rows]


async def count_data_keys_to_rewrap(tx: SystemTransaction, *, key_id: str) -> int:
    """Returns how many data keys another key than `key_id` wraps, at most 100,000."""
    row = await tx.one(COUNT_WRAPPED, key_id=key_id, limit=MOST_COUNTED)
    return 0 if row is None else int(row.data_keys)


async def list_wrapping_keys(tx: SystemTransaction) -> list[str]:
    """Returns the IDs of the keys that wrap data keys, in order, at most MOST_WRAPPING_KEYS."""
    key_ids: list[str] = []
    while len(key_ids) < MOST_WRAPPING_KEYS:
        row = await tx.one(NEXT_WRAPPING_KEY, after=key_ids[-1] if key_ids else "")
        if row is None or row.key_id is None:
            break
        key_ids.append(row.key_id)
    return key_ids


async def rewrap_data_keys(
    tx: SystemTransaction, *, rewrapped: Sequence[tuple[StoredDataKey, DataKey]], now: int
) -> None:
    """Stores data keys as they are wrapped anew, each beside what it was."""
    for stored, data_key in rewrapped:
        await tx.run(
            REWRAP_DATA_KEY,
            key_vault_id=stored.vault_id,
            data_key_id=data_key.data_key_id,
            old_key_id=stored.data_key.wrapping_key_id,
            wrapping_key_id=data_key.wrapping_key_id,
            wrapped_key=data_key.wrapped_key,
            now=now,
        )
