"""VaultService: convert, call, convert."""

from typing import Any

import grpc
from metamorph.vault.v1 import usage_pb2, vault_service_pb2_grpc
from metamorph.vault.v1 import vault_service_pb2 as pb

from metamorphd.auth.callers import current_caller
from metamorphd.clock import Clock, day_of
from metamorphd.services.convert.days import days
from metamorphd.services.convert.time import timestamp
from metamorphd.services.convert.vault import (
    budget_from_proto,
    budget_status_to_proto,
    usage_row_to_proto,
    vault_to_proto,
)
from metamorphd.services.paging import clamp_page_size, decode_page_token, encode_page_token
from metamorphd.services.update_mask import changes
from metamorphd.store.budgets import get_budgets
from metamorphd.store.database import Database
from metamorphd.store.usage import list_usage
from metamorphd.store.vaults import create_vault, get_vault, update_vault

SETTABLE = {"display_name", "default_model", "system_prompt", "budget"}

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
        changed = changes(request.vault, request.update_mask, SETTABLE)
        if "budget" in changed:
            changed["budget"] = budget_from_proto(request.vault.budget)
        vault = await self._database.write(
            update_vault,
            current_caller.get().vault_id,
            changes=changed,
            etag=request.vault.etag,
            request_key=self._clock.new_key(),
            now=self._clock.now(),
        )
        return pb.UpdateVaultResponse(vault=vault_to_proto(vault))

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        vault_id, now = current_caller.get().vault_id, self._clock.now()
        start_day, end_day = days(request.start_day, request.end_day, today=day_of(now))
        page, total = await self._database.read(
            list_usage,
            vault_id,
            start_day=start_day,
            end_day=end_day,
            session_id=request.session_id if request.HasField("session_id") else None,
            model=request.model if request.HasField("model") else None,
            by_day=usage_pb2.USAGE_GROUPING_DAY in request.group_by,
            by_model=usage_pb2.USAGE_GROUPING_MODEL in request.group_by,
            by_session=usage_pb2.USAGE_GROUPING_SESSION in request.group_by,
            after=decode_page_token(request, vault_id, request.page_token, (str, str, str)),
            page_size=clamp_page_size(request.page_size),
        )
        budgets = await self._database.read(get_budgets, vault_id, now=now)
        return pb.GetUsageResponse(
            rows=map(usage_row_to_proto, page.items),
            next_page_token=encode_page_token(request, vault_id, page.next_after),
            total=usage_row_to_proto(total),
            budgets=map(budget_status_to_proto, budgets),
        )
