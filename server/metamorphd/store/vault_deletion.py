"""Deletes vaults: hides them at once, and destroys their data keys."""

from collections.abc import Collection
from dataclasses import replace

from metamorphd.errors import VaultBeingErased, VaultNotDeleted
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.erased_vault import ErasedVault
from metamorphd.models.operation import Operation, OperationKind, Progress
from metamorphd.models.vault import VaultState, VaultStatus
from metamorphd.store.changes import append_change
from metamorphd.store.database import Transaction
from metamorphd.store.erasure_ledger import enter_vault, get_life
from metamorphd.store.operations import begin_operation, find_running_operation
from metamorphd.store.vault_states import get_vault_status, put_vault_status
from metamorphd.store.vaults import create_vault

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
RELEASE_VAULT = "DELETE FROM vault_states WHERE vault_id = :vault_id"
FORGET_OPERATIONS = "DELETE FROM operations WHERE vault_id = :vault_id"


async def delete_vault(
    tx: Transaction, *, operation: Operation, hash_key: bytes, places: Collection[str], now: int
) -> VaultStatus:
    """Deletes the vault: destroys its data keys, enters it in the ledger, and begins the operation that erases it.

    The ledger's files in `places` lack it then.
    """
    await create_vault(tx, hash_key=hash_key, now=now)
    life = await get_life(tx)
    if life is None:
        raise RuntimeError("a vault that was just made is missing")
    await enter_vault(tx, life=life, places=places, now=now)
    return await _delete(tx, operation, now)


async def _delete(tx: Transaction, operation: Operation, now: int) -> VaultStatus:
    await tx.run(OVERWRITE_KEYS, nothing=NOTHING)
    await tx.run(DESTROY_KEYS)
    await tx.run(CLEAR_VAULT, now=now)
    stored = await tx.one(GET_STORED_BYTES)
    progress = Progress(0, 0 if stored is None else stored.stored_bytes, "bytes")
    await begin_operation(tx, operation=replace(operation, progress=progress), limited=False)
    status = VaultStatus(tx.scope.vault_id, VaultState.DELETED, "", tx.scope.actor.user_id, now)
    await put_vault_status(tx, status=status)
    await append_change(
        tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.DELETED, now=now
    )
    return status


async def replay_deletion(tx: Transaction, *, entry: ErasedVault, operation: Operation) -> bool:
    """Deletes the vault if it is the one of an entry of the ledger, and still there. Returns whether it was.

    So it is after a restore from a backup that was made before its deletion.
    """
    if await get_life(tx) != entry.life or (await get_vault_status(tx)).state is VaultState.DELETED:
        return False
    await _delete(tx, operation, entry.delete_time)
    return True


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
