"""AdminService: vaults."""

import asyncio

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.services.convert.vault_stats import (
    vault_state_from_proto,
    vault_stats_to_proto,
    vault_summary_to_proto,
)
from metamorphd.services.convert.vault_status import vault_status_to_proto
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.database import Database
from metamorphd.store.vault_deletion import release_vault, require_erased
from metamorphd.store.vault_erasure import erase_vault_step
from metamorphd.store.vault_states import resume_vault, suspend_vault
from metamorphd.store.vault_stats import get_vault_stats, list_vaults
from metamorphd.vault_states import VaultStates

# Between two steps of erasing, which leaves time to others.
PAUSE_SECONDS = 0.01


class AdminVaults:
    """The methods of AdminService that are about vaults."""

    _database: Database
    _engine: TurnEngine
    _states: VaultStates
    _clock: Clock
    _storage_limit: int

    async def ListVaults(self, request: pb.ListVaultsRequest, scope: Scope) -> pb.ListVaultsResponse:
        page = await self._database.read_system(
            list_vaults,
            scope,
            state=vault_state_from_proto(request.state),
            now=self._clock.now(),
            after=decode_page_token(request, "", request.page_token, (str,)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
        )
        return pb.ListVaultsResponse(
            vaults=await convert_items(vault_summary_to_proto, page.items),
            next_page_token=encode_page_token(request, "", page.next_after),
        )

    async def GetVaultStats(self, request: pb.GetVaultStatsRequest, scope: Scope) -> pb.GetVaultStatsResponse:
        stats = await self._database.read(
            get_vault_stats,
            scope.of_vault(request.vault_id),
            now=self._clock.now(),
            default_limit=self._storage_limit,
        )
        return pb.GetVaultStatsResponse(stats=vault_stats_to_proto(stats))

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

    async def ReleaseVault(self, request: pb.ReleaseVaultRequest, scope: Scope) -> pb.ReleaseVaultResponse:
        scope = scope.of_vault(request.vault_id)
        await self._database.read(require_erased, scope)
        # What ended after it was erased, such as a turn of another process, has left little.
        left = True
        while left:
            left = await self._database.write(erase_vault_step, scope, operation_id="", now=self._clock.now())
            await asyncio.sleep(PAUSE_SECONDS)
        status, _ = await self._states.change(release_vault, scope, now=self._clock.now())
        return pb.ReleaseVaultResponse(status=vault_status_to_proto(status))
