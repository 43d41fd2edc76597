"""VaultService: convert, call, convert."""

import contextlib
from collections.abc import AsyncIterator

from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.clock import Clock, day_of
from metamorphd.leaving.vaults import Leaving
from metamorphd.memories.memories import Memories
from metamorphd.models.caller import Scope
from metamorphd.models.vault import VaultChanges
from metamorphd.operations import Operations
from metamorphd.secrets.secrets import Secrets
from metamorphd.services.audit import VaultAudit
from metamorphd.services.convert.change import changes_to_proto, filter_from_proto
from metamorphd.services.convert.days import days
from metamorphd.services.convert.time import timestamp
from metamorphd.services.convert.usage import GROUPINGS, usage_row_to_proto, usage_subject
from metamorphd.services.convert.vault import (
    budget_from_proto,
    budget_status_to_proto,
    storage_to_proto,
    subject_budgets_from_proto,
    vault_to_proto,
)
from metamorphd.services.leaving import VaultLeaving
from metamorphd.services.memories import VaultMemories
from metamorphd.services.operations import VaultOperations
from metamorphd.services.paging import clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.services.secrets import VaultSecrets
from metamorphd.services.transfers import VaultTransfers
from metamorphd.services.update_mask import masked
from metamorphd.store.budgets import get_budgets
from metamorphd.store.changes import get_revision, revised
from metamorphd.store.database import Database
from metamorphd.store.storage import get_storage
from metamorphd.store.usage_lists import list_usage
from metamorphd.store.vaults import create_vault, get_vault, update_vault
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.watching import Watching

SETTABLE = {"display_name", "default_model", "system_prompt", "budget", "retention_days", "subject_budgets"}


class VaultService(VaultSecrets, VaultMemories, VaultOperations, VaultTransfers, VaultAudit, VaultLeaving):
    """Implements VaultService, for the caller's vault."""

    def __init__(
        self,
        *,
        database: Database,
        watching: Watching,
        secrets: Secrets,
        operations: Operations,
        memories: Memories,
        most_memories: int,
        exports: Exports,
        leaving: Leaving,
        imports: Imports,
        clock: Clock,
        storage_limit: int,
    ) -> None:
        self._database = database
        self._watching = watching
        self._secrets = secrets
        self._operations = operations
        self._memories = memories
        self._most_memories = most_memories
        self._exports = exports
        self._leaving = leaving
        self._imports = imports
        self._storage_limit = storage_limit
        self._clock = clock

    async def WhoAmI(self, request: pb.WhoAmIRequest, scope: Scope) -> pb.WhoAmIResponse:
        return pb.WhoAmIResponse(
            vault_id=scope.vault_id,
            user_id=scope.actor.user_id,
            email=scope.actor.email,
            permissions=sorted(scope.actor.permissions | ({"operator"} if scope.actor.operator else set())),
            auth_method=scope.actor.auth_method,
            expire_time=timestamp(scope.actor.expire_time),
        )

    async def GetVault(self, request: pb.GetVaultRequest, scope: Scope) -> pb.GetVaultResponse:
        # First, so that what changes meanwhile is seen by whoever watches from here on.
        revision = await self._database.read(get_revision, scope)
        vault = await self._database.read(get_vault, scope)
        if vault is not None:
            return pb.GetVaultResponse(vault=vault_to_proto(vault), revision=revision)
        key = self._clock.new_key()
        made, revision = await self._database.write(revised(create_vault), scope, hash_key=key, now=self._clock.now())
        return pb.GetVaultResponse(vault=vault_to_proto(made), revision=revision)

    async def UpdateVault(self, request: pb.UpdateVaultRequest, scope: Scope) -> pb.UpdateVaultResponse:
        changed = masked(request.vault, request.update_mask, SETTABLE)
        if "budget" in changed:
            changed["budget"] = budget_from_proto(request.vault.budget)
        if "subject_budgets" in changed:
            changed["subject_budgets"] = subject_budgets_from_proto(request.vault.subject_budgets)
        vault, revision = await self._database.write(
            revised(update_vault),
            scope,
            changes=VaultChanges(**changed),
            etag=request.vault.etag,
            hash_key=self._clock.new_key(),
            now=self._clock.now(),
        )
        return pb.UpdateVaultResponse(vault=vault_to_proto(vault), revision=revision)

    async def WatchVault(self, request: pb.WatchVaultRequest, scope: Scope) -> AsyncIterator[pb.WatchVaultResponse]:
        watched = self._watching.watch(
            scope,
            after_revision=request.after_revision if request.HasField("after_revision") else None,
            after_mark=request.after_mark,
            wanted=filter_from_proto(request),
        )
        async with contextlib.aclosing(watched) as found:
            async for changes, revision, mark in found:
                yield changes_to_proto(changes, revision, mark)

    async def GetUsage(self, request: pb.GetUsageRequest, scope: Scope) -> pb.GetUsageResponse:
        now = self._clock.now()
        kind, subject = usage_subject(request)
        start_day, end_day = days(request.start_day, request.end_day, today=day_of(now))
        page, total = await self._database.read(
            list_usage,
            scope,
            start_day=start_day,
            end_day=end_day,
            model=request.model if request.HasField("model") else None,
            kind=kind,
            subject=subject,
            by_day=usage_pb2.USAGE_GROUPING_DAY in request.group_by,
            by_model=usage_pb2.USAGE_GROUPING_MODEL in request.group_by,
            by_subject=GROUPINGS[kind] in request.group_by,
            after=decode_page_token(request, scope.vault_id, request.page_token, (str, str, str)),
            # Not limited by size: a row has at most about 1,300 bytes, so 1000 of them stay below PAGE_BYTES.
            page_size=clamp_page_size(request.page_size),
        )
        budgets = await self._database.read(
            get_budgets,
            scope,
            user_id=request.user_id or scope.actor.user_id,
            labels=[request.label] if request.label else [],
            now=now,
        )
        storage = await self._database.read(get_storage, scope, default_limit=self._storage_limit)
        return pb.GetUsageResponse(
            rows=await convert_items(usage_row_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
            total=usage_row_to_proto(total),
            budgets=map(budget_status_to_proto, budgets),
            storage=storage_to_proto(storage),
        )
