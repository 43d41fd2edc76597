"""Deletes vaults, and keeps them deleted when a backup is restored that was made before."""

import asyncio

import structlog

from metamorphd.backups.backups import Backups
from metamorphd.backups.ledger import Ledger
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.erased_vault import Deletion, ErasedVault
from metamorphd.models.operation import OperationKind
from metamorphd.operations import Operations
from metamorphd.store.database import Database
from metamorphd.store.vault_deletion import delete_vault, list_entries, list_erased_vaults, replay_deletion
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.vault_states import VaultStates

# Read at a time when the server starts.
STEP_ENTRIES = 500

logger = structlog.get_logger(__name__)


class Leaving:
    """Deletes the vaults of callers."""

    def __init__(
        self,
        *,
        database: Database,
        states: VaultStates,
        engine: TurnEngine,
        backups: Backups,
        exports: Exports,
        imports: Imports,
        operations: Operations,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self._database = database
        self._states = states
        self._engine = engine
        self._backups = backups
        self._exports = exports
        self._imports = imports
        self._operations = operations
        self._ledger = ledger
        self._clock = clock

    async def delete_vault(self, scope: Scope) -> Deletion:
        """Deletes the scope's vault: it is hidden and cannot be decrypted, and in the ledger, when this returns.

        When the caller is cancelled, it goes on.
        """
        return await asyncio.shield(self._delete_vault(scope))

    async def _delete_vault(self, scope: Scope) -> Deletion:
        now = self._clock.now()
        operation = self._operations.new(scope, OperationKind.ERASE_VAULT)
        await self._states.change(delete_vault, scope, operation=operation, hash_key=self._clock.new_key(), now=now)
        entries = await self._database.read(list_entries, scope)
        await asyncio.to_thread(self._ledger.add, entries)
        await self._exports.forget(scope.vault_id)
        self._imports.forget(scope.vault_id)
        await self._engine.cancel_turns(scope)
        self._backups.copy_ledger()
        backups, expire_time = await self._backups.last_expiry()
        logger.info("a vault was deleted", vaultId=scope.vault_id, operation_id=operation.operation_id)
        return Deletion(await self._operations.get(scope, operation.operation_id), now, backups, expire_time)


async def replay_ledger(*, database: Database, ledger: Ledger, operations: Operations) -> list[ErasedVault]:
    """Deletes the vaults that a restored backup has brought back, and returns them.

    What only the database or only a file knows is in both then.
    """
    stored, after = set[ErasedVault](), ("", "")
    while page := await database.read_system(list_erased_vaults, server_scope(), after=after, limit=STEP_ENTRIES):
        stored.update(page)
        after = (page[-1].vault_id, page[-1].life)
    kept = await asyncio.to_thread(ledger.read)
    await asyncio.to_thread(ledger.add, sorted(stored, key=lambda entry: entry.delete_time))
    deleted = []
    for entry in kept:
        if entry in stored:
            continue
        scope = server_scope(entry.vault_id)
        operation = operations.new(scope, OperationKind.ERASE_VAULT)
        if await database.write(replay_deletion, scope, entry=entry, operation=operation):
            logger.warning("a vault that was deleted is in the restored backup; it is erased", vaultId=entry.vault_id)
            deleted.append(entry)
    return deleted
