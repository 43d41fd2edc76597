"""Deletes vaults: hides them at once, destroys their data keys, and keeps the ledger of what was erased."""

from dataclasses import replace
from hashlib import sha256

from metamorphd.errors import VaultBeingErased, VaultNotDeleted
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.erased_vault import ErasedVault
from metamorphd.models.operation import Operation, OperationKind, Progress
from metamorphd.models.vault import VaultState, VaultStatus
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction
from metamorphd.store.operations import begin_operation, find_running_operation
from metamorphd.store.vault_states import get_vault_status, put_vault_status
from metamorphd.store.vaults import create_vault

GET_LIFE = "SELECT hash_key FROM vaults WHERE vault_id = :vault_id"
GET_STORED_BYTES = "SELECT stored_bytes FROM vaults WHERE vault_id = :vault_id"
# As long as what keys/sealing.py makes of a key, so that it takes the same place.
NOTHING = bytes(94)
OVERWRITE_KEYS = "UPDATE data_keys SET wrapped_key = :nothing WHERE vault_id = :vault_id"
DESTROY_KEYS = "DELETE FROM data_keys WHERE vault_id = :vault_id"
# The row is written anew with each part that is erased, and the indexing passes vaults that have nothing to index.
CLEAR_VAULT = """
UPDATE vaults SET display_name = '', default_model = '', system_prompt = '', tokens_per_day = NULL,
    tokens_per_month = NULL, cost_usd_nanos_per_day = NULL, cost_usd_nanos_per_month = NULL, unindexed_before = NULL,
    retention_days = 0,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id
"""
ENTER_ERASED = """
INSERT INTO erased_vaults (vault_id, life, delete_time) VALUES (:vault_id, :life, :delete_time)
ON CONFLICT (vault_id, life) DO NOTHING
"""
LIST_LIVES = "SELECT vault_id, life, delete_time FROM erased_vaults WHERE vault_id = :vault_id ORDER BY life"
LIST_ERASED = """
SELECT vault_id, life, delete_time FROM erased_vaults
WHERE (vault_id, life) > (:after_vault_id, :after_life)
ORDER BY vault_id, life
LIMIT :limit
"""
RELEASE_VAULT = "DELETE FROM vault_states WHERE vault_id = :vault_id"
FORGET_OPERATIONS = "DELETE FROM operations WHERE vault_id = :vault_id"


def life_of(hash_key: bytes) -> str:
    """Returns what distinguishes a vault's life, from 32 random bytes that no other life has."""
    return sha256(b"metamorph vault\0" + hash_key).hexdigest()[:32]


async def delete_vault(tx: Transaction, *, operation: Operation, hash_key: bytes, now: int) -> VaultStatus:
    """Deletes the vault: destroys its data keys, enters it in the ledger, and begins the operation that erases it."""
    await create_vault(tx, hash_key=hash_key, now=now)
    stored = await tx.one(GET_LIFE)
    if stored is None:
        raise RuntimeError("a vault that was just made is missing")
    return await _delete(tx, operation, life_of(stored.hash_key), now)


async def _delete(tx: Transaction, operation: Operation, life: str, now: int) -> VaultStatus:
    await tx.run(OVERWRITE_KEYS, nothing=NOTHING)
    await tx.run(DESTROY_KEYS)
    await tx.run(CLEAR_VAULT, now=now)
    await tx.run(ENTER_ERASED, life=life, delete_time=now)
    stored = await tx.one(GET_STORED_BYTES)
    progress = Progress(0, 0 if stored is None else stored.stored_bytes, "bytes")
    await begin_operation(tx, operation=replace(operation, progress=progress), limited=False)
    status = VaultStatus(tx.scope.vault_id, VaultState.DELETED, "", tx.scope.actor.user_id, now)
    await put_vault_status(tx, status=status)
    await append_change(
        tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.DELETED, now=now
    )
    return status


async def list_entries(tx: Transaction) -> list[ErasedVault]:
    """Returns the ledger's entries of the vaults that have had this ID."""
    return list(map(_entry, await tx.all(LIST_LIVES)))


async def replay_deletion(tx: Transaction, *, entry: ErasedVault, operation: Operation) -> bool:
    """Deletes the vault if it is the one of an entry of the ledger, and still there. Returns whether it was.

    So it is after a restore from a backup that was made before its deletion.
    """
    await tx.run(ENTER_ERASED, life=entry.life, delete_time=entry.delete_time)
    stored = await tx.one(GET_LIFE)
    if stored is None or life_of(stored.hash_key) != entry.life:
        return False
    if (await get_vault_status(tx)).state is VaultState.DELETED:
        return False
    await _delete(tx, operation, entry.life, entry.delete_time)
    return True


async def list_erased_vaults(tx: SystemTransaction, *, after: tuple[str, str], limit: int) -> list[ErasedVault]:
    """Returns entries of the ledger, in the order of (vault, life), from the first one after `after`."""
    rows = await tx.all(LIST_ERASED, after_vault_id=after[0], after_life=after[1], limit=limit)
    return list(map(_entry, rows))


def _entry(row: Row) -> ErasedVault:
    return ErasedVault(row.vault_id, row.life, row.delete_time)


async def require_erased(tx: Transaction) -> None:
    """Raises VaultNotDeleted, or VaultBeingErased while that goes on."""
    if (await get_vault_status(tx)).state is not VaultState.DELETED:
        raise VaultNotDeleted
    erasing = await find_running_operation(tx, kind=OperationKind.ERASE_VAULT)
    if erasing is not None:
        raise VaultBeingErased(operation_id=erasing.operation_id)


async def release_vault(tx: Transaction, *, now: int) -> VaultStatus:
    """Lets the ID of an erased vault be used again, for a new one, whose log goes on.

    Raises VaultNotDeleted, VaultBeingErased.
    """
    await require_erased(tx)
    await tx.run(FORGET_OPERATIONS)
    await tx.run(RELEASE_VAULT)
    await append_change(
        tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.RESUMED, now=now
    )
    return VaultStatus(tx.scope.vault_id)
