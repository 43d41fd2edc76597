"""AdminService: convert, call, convert."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.audit.recording import Recorder
from metamorphd.audit.verification import Verification
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.backups.backups import Backups
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.models.finding import Finding
from metamorphd.models.revocation import Revocation
from metamorphd.operations import Operations
from metamorphd.secrets.rotation import Rotation
from metamorphd.services.admin.audit import AdminAudit
from metamorphd.services.admin.backups import AdminBackups
from metamorphd.services.admin.keys import AdminKeys
from metamorphd.services.admin.operations import AdminOperations
from metamorphd.services.admin.vaults import AdminVaults
from metamorphd.services.convert.finding import finding_to_proto
from metamorphd.services.convert.revocation import revocation_to_proto
from metamorphd.services.convert.time import duration, microseconds, timestamp
from metamorphd.services.convert.vault import budget_from_proto, limits_to_proto, subject_budgets_from_proto
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.services.update_mask import masked
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.erasures import get_backlog
from metamorphd.store.revocations import list_revocations, revoke_token, revoke_user
from metamorphd.store.vaults import get_vault_limits, update_vault_limits
from metamorphd.vault_states import VaultStates


@dataclass(frozen=True, slots=True)
class Build:
    """The running server: its version, settings without secrets, warnings, source of replies, and start time.

    `findings` returns what it finds of its deployment now.
    """

    version: str
    settings: Mapping[str, str]
    warnings: Sequence[str]
    model_source: str
    start_time: int
    findings: Callable[[], Awaitable[Sequence[Finding]]]


class AdminService(AdminBackups, AdminAudit, AdminKeys, AdminOperations, AdminVaults):
    """Implements AdminService, for the operator of the server."""

    def __init__(
        self,
        *,
        database: Database,
        engine: TurnEngine,
        revoked_tokens: RevokedTokens,
        backups: Backups,
        rotation: Rotation,
        operations: Operations,
        states: VaultStates,
        recorder: Recorder,
        verification: Verification,
        clock: Clock,
        build: Build,
        storage_limit: int,
    ) -> None:
        self._database = database
        self._engine = engine
        self._revoked_tokens = revoked_tokens
        self._backups = backups
        self._rotation = rotation
        self._operations = operations
        self._states = states
        self._recorder = recorder
        self._verification = verification
        self._clock = clock
        self._build = build
        self._storage_limit = storage_limit

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, scope: Scope) -> pb.GetServerInfoResponse:
        engine_version, schema_version = await self._database.versions()
        backlog = await self._database.read_system(get_backlog, scope)
        checked = self._database.checked
        return pb.GetServerInfoResponse(
            version=self._build.version,
            store=pb.StoreInfo(
                engine=self._database.engine,
                engine_version=engine_version,
                schema_version=schema_version,
                check=pb.StoreCheck(
                    complete_time=timestamp(checked.complete_time), faults=checked.faults, progress=checked.progress
                ),
            ),
            start_time=timestamp(self._build.start_time),
            uptime=duration(self._clock.now() - self._build.start_time),
            model_source=self._build.model_source,
            settings=self._build.settings,
            warnings=self._build.warnings,
            findings=map(finding_to_proto, await self._build.findings()),
            running_turns=self._engine.running_turns,
            erasure_backlog=pb.ErasureBacklog(
                resource_count=backlog.resources,
                message_count=backlog.messages,
                oldest_delete_time=timestamp(backlog.oldest_delete_time),
            ),
        )

    async def RevokeTokens(self, request: pb.RevokeTokensRequest, scope: Scope) -> pb.RevokeTokensResponse:
        # Shielded: cancelling the call must not leave a revocation that is stored but not in force.
        revocation = await asyncio.shield(self._revoke(request, scope.of_vault(request.vault_id)))
        return pb.RevokeTokensResponse(revocation=revocation_to_proto(revocation))

    async def _revoke(self, request: pb.RevokeTokensRequest, scope: Scope) -> Revocation:
        now = self._clock.now()
        made = {"revocation_id": self._clock.new_id("rev"), "note": request.note}
        if request.HasField("token_id"):
            revocation = await self._database.write(revoke_token, scope, token_id=request.token_id, now=now, **made)
        else:
            user = request.user_tokens
            revocation = await self._database.write(
                revoke_user,
                scope,
                user_id=user.user_id,
                issued_before=min(now, microseconds(user.issued_before)) if user.HasField("issued_before") else now,
                now=now,
                **made,
            )
        self._revoked_tokens.add(revocation)
        return revocation

    async def ListRevocations(self, request: pb.ListRevocationsRequest, scope: Scope) -> pb.ListRevocationsResponse:
        page = await self._database.read_system(
            list_revocations,
            scope,
            target_vault_id=request.vault_id or None,
            after=decode_page_token(request, "", request.page_token, (str,)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
        )
        return pb.ListRevocationsResponse(
            revocations=await convert_items(revocation_to_proto, page.items),
            next_page_token=encode_page_token(request, "", page.next_after),
        )

    async def GetVaultLimits(self, request: pb.GetVaultLimitsRequest, scope: Scope) -> pb.GetVaultLimitsResponse:
        limits = await self._database.read(get_vault_limits, scope.of_vault(request.vault_id))
        return pb.GetVaultLimitsResponse(limits=limits_to_proto(limits))

    async def UpdateVaultLimits(
        self, request: pb.UpdateVaultLimitsRequest, scope: Scope
    ) -> pb.UpdateVaultLimitsResponse:
        limits = request.limits
        changed = masked(limits, request.update_mask, {"budget", "storage_bytes", "subject_budgets"})
        stored, revision = await self._database.write(
            revised(update_vault_limits),
            scope.of_vault(limits.vault_id),
            budget=budget_from_proto(limits.budget) if "budget" in changed else None,
            subject_budgets=(
                subject_budgets_from_proto(limits.subject_budgets) if "subject_budgets" in changed else None
            ),
            storage_bytes=limits.storage_bytes if limits.HasField("storage_bytes") else None,
            changes_storage="storage_bytes" in changed,
            now=self._clock.now(),
        )
        return pb.UpdateVaultLimitsResponse(limits=limits_to_proto(stored), revision=revision)
