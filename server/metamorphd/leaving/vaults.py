"""Deletes the vaults of callers."""

import asyncio

import structlog

from metamorphd.backups.backups import Backups
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.leaving.erasure_ledger import ErasureLedger
from metamorphd.models.caller import Scope
from metamorphd.models.erased_vault import Deletion
from metamorphd.models.operation import OperationKind
from metamorphd.operations import Operations
from metamorphd.store.database import Database
from metamorphd.store.vault_deletion import delete_vault
from metamorphd.store.vaults import get_vault
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.vault_states import VaultStates

logger = structlog.get_logger(__name__)


class Leaving:
    """Deletes the vaults of callers."""

    def __init__(
        self,
        *,
        states: VaultStates,
        engine: TurnEngine,
        backups: Backups,
        exports: Exports,
        imports: Imports,
        operations: Operations,
        ledger: ErasureLedger,
        database: Database,
        clock: Clock,
    ) -> None:
        self._states = states
        self._engine = engine
        self._backups = backups
        self._exports = exports
        self._imports = imports
        self._operations = operations
        self._ledger = ledger
        self._database = database
        self._clock = clock

    async def delete_vault(self, scope: Scope) -> Deletion:
        """Deletes the scope's vault: it is hidden and cannot be decrypted, and in the ledger, when this returns.

        When the caller is cancelled, it goes on.
        """
        return await asyncio.shield(self._delete_vault(scope))

    async def _delete_vault(self, scope: Scope) -> Deletion:
        now = self._clock.now()
        # Read first: its row may be erased soon after.
        vault = await self._database.read(get_vault, scope)
        operation = self._operations.new(scope, OperationKind.ERASE_VAULT)
        key, places = self._clock.new_key(), self._ledger.places
        await self._states.change(delete_vault, scope, operation=operation, hash_key=key, places=places, now=now)
        try:
            await self._ledger.file()
        finally:
            # A file that cannot be written now is tried again by the housekeeping, but the vault is deleted.
            await self._end(scope)
        self._backups.copy_ledger()
        backups, expire_time = await self._backups.last_expiry(since=now if vault is None else vault.create_time)
        logger.info("a vault was deleted", vaultId=scope.vault_id, operation_id=operation.operation_id)
        return Deletion(await self._operations.get(scope, operation.operation_id), now, backups, expire_time)

    async def _end(self, scope: Scope) -> None:
        """Stops what goes on in a vault that is deleted, and deletes its files."""
        self._imports.forget(scope.vault_id)
        await self._exports.forget(scope.vault_id)
        await self._engine.cancel_turns(scope)
