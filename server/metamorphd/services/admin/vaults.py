"""AdminService: vaults."""

import asyncio

from metamorph.admin.v1 import admin_service_pb2 as pb

from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.services.convert.vault_status import vault_status_to_proto
from metamorphd.store.vault_states import resume_vault, suspend_vault
from metamorphd.vault_states import VaultStates


class AdminVaults:
    """The methods of AdminService that are about vaults."""

    _engine: TurnEngine
    _states: VaultStates
    _clock: Clock

    async def SuspendVault(self, request: pb.SuspendVaultRequest, scope: Scope) -> pb.SuspendVaultResponse:
        # Shielded: cancelling the call must not leave turns running in a suspended vault.
        return await asyncio.shield(self._suspend(request, scope.of_vault(request.vault_id)))

    async def _suspend(self, request: pb.SuspendVaultRequest, scope: Scope) -> pb.SuspendVaultResponse:
        status, revision = await self._states.change(suspend_vault, scope, reason=request.reason, now=self._clock.now())
        return pb.SuspendVaultResponse(
            status=vault_status_to_proto(status),
            revision=revision,
            running_turn_count=await self._engine.cancel_turns(scope),
        )

    async def ResumeVault(self, request: pb.ResumeVaultRequest, scope: Scope) -> pb.ResumeVaultResponse:
        status, revision = await self._states.change(
            resume_vault, scope.of_vault(request.vault_id), now=self._clock.now()
        )
        return pb.ResumeVaultResponse(status=vault_status_to_proto(status), revision=revision)
