"""The states of vaults, in memory: checked by every call, and open streams end when their vault's changes."""

import asyncio
from collections.abc import Callable, Mapping

from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.vault import VaultState, VaultStatus
from metamorphd.store.changes import revised
from metamorphd.store.database import Database, Operation, P
from metamorphd.store.vault_states import load_vault_states, refusal_of


class VaultStates:
    """The vaults that are not active, as they are stored."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._not_active: dict[str, VaultStatus] = {}
        self._listeners: list[Callable[[], None]] = []
        # So that states are set here in the order in which they were stored.
        self._changing = asyncio.Lock()

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read."""
        return {
            "metamorph_suspended_vaults": (
                "Vaults that an operator has suspended",
                lambda: sum(status.state is VaultState.SUSPENDED for status in self._not_active.values()),
            )
        }

    @property
    def deleted(self) -> list[str]:
        """The IDs of the vaults that are deleted and not released."""
        return [vault_id for vault_id, status in self._not_active.items() if status.state is VaultState.DELETED]

    async def load(self) -> None:
        """Reads what is stored, and calls the listeners."""
        stored = await self._database.read_system(load_vault_states, server_scope())
        self._not_active = {status.vault_id: status for status in stored}
        self._notify()

    async def change(
        self, operation: Operation[P, VaultStatus], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[VaultStatus, int]:
        """Writes a state, calls the listeners, and returns it with the vault's revision.

        When the caller is cancelled, it may still be stored, and is in force then too.
        """
        return await asyncio.shield(self._change(operation, scope, *args, **kwargs))

    async def _change(
        self, operation: Operation[P, VaultStatus], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[VaultStatus, int]:
        async with self._changing:
            status, revision = await self._database.write(revised(operation), scope, *args, **kwargs)
            if status.state is VaultState.ACTIVE:
                self._not_active.pop(status.vault_id, None)
            else:
                self._not_active[status.vault_id] = status
        self._notify()
        return status, revision

    def check(self, vault_id: str) -> None:
        """Raises VaultSuspended, VaultDeleted."""
        # Every call passes here, and most servers have no such vault.
        if self._not_active and (status := self._not_active.get(vault_id)) is not None:
            refusal = refusal_of(status)
            if refusal is not None:
                raise refusal

    def listen(self, listener: Callable[[], None]) -> None:
        """Registers `listener`, which is called after every `load` and `change`."""
        self._listeners.append(listener)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()
