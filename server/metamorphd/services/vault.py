"""VaultService: convert, call, convert."""

from typing import Any

import grpc
from metamorph.vault.v1 import vault_service_pb2 as pb
from metamorph.vault.v1 import vault_service_pb2_grpc

from metamorphd.auth.callers import current_caller
from metamorphd.clock import Clock
from metamorphd.services.encoding import timestamp, vault_to_proto
from metamorphd.services.requests import changes
from metamorphd.store.database import Database
from metamorphd.store.vaults import create_vault, get_vault, update_vault

SETTABLE = {"display_name", "default_model", "system_prompt"}

Context = grpc.aio.ServicerContext[Any, Any]


class VaultService(vault_service_pb2_grpc.VaultServiceServicer):
    """The caller's vault."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        caller = current_caller.get()
        return pb.WhoAmIResponse(
            vault_id=caller.vault_id,
            user_id=caller.user_id,
            email=caller.email,
            permissions=sorted(caller.permissions | ({"operator"} if caller.operator else set())),
            auth_method=caller.auth_method,
            expire_time=timestamp(caller.expire_time),
        )

    async def GetVault(self, request: pb.GetVaultRequest, context: Context) -> pb.GetVaultResponse:
        vault_id = current_caller.get().vault_id
        vault = await self._database.read(get_vault, vault_id)
        if vault is None:
            key = self._clock.new_key()
            vault = await self._database.write(create_vault, vault_id, request_key=key, now=self._clock.now())
        return pb.GetVaultResponse(vault=vault_to_proto(vault))

    async def UpdateVault(self, request: pb.UpdateVaultRequest, context: Context) -> pb.UpdateVaultResponse:
        vault = await self._database.write(
            update_vault,
            current_caller.get().vault_id,
            changes=changes(request.vault, request.update_mask, SETTABLE),
            etag=request.vault.etag,
            request_key=self._clock.new_key(),
            now=self._clock.now(),
        )
        return pb.UpdateVaultResponse(vault=vault_to_proto(vault))
