"""Calls that read usage and set budgets."""

from datetime import datetime
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from metamorph.admin.v1 import admin_service_pb2 as admin_pb
from metamorph.chat.v1 import message_pb2
from metamorph.vault.v1 import usage_pb2
from metamorph.vault.v1 import vault_service_pb2 as vault_pb
from metamorph.vault.v1.usage_pb2 import Budget
from metamorphd.catalog import load_catalog
from metamorphd.clock import Clock
from metamorphd.models.usage import Usage

from tests.support.caller import Caller

MODEL = "claude-sonnet-5-5"
CATALOG = load_catalog(None, now=Clock().now())


class SetClock(Clock):
    """A clock that stays at the time it is set to."""

    def __init__(self, time: str) -> None:
        super().__init__()
        self.set(time)

    def set(self, time: str) -> None:
        self.seconds = int(datetime.fromisoformat(f"{time}+00:00").timestamp())

    def now(self) -> int:
        return self.seconds * 1_000_000


def priced(usage: Usage, model: str = MODEL) -> message_pb2.Usage:
    return message_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_usd_nanos=CATALOG.cost(model, usage),
        estimated=usage.estimated,
    )


async def usage(caller: Caller, *group_by: Any, **query: Any) -> vault_pb.GetUsageResponse:
    request = vault_pb.GetUsageRequest(group_by=group_by, **query)
    return await caller.vault.GetUsage(request, metadata=caller.metadata)


async def budgets(caller: Caller) -> dict[str, usage_pb2.BudgetStatus]:
    return {status.budget: status for status in (await usage(caller)).budgets}


async def allow(caller: Caller, **limits: int) -> None:
    """Sets the vault's own budget, as a user with the permission."""
    request = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(budget=Budget(**limits)), update_mask=FieldMask(paths=["budget"])
    )
    await caller.vault.UpdateVault(request, metadata=caller.metadata)


async def limit(operator: Caller, vault_id: str, **limits: int) -> admin_pb.VaultLimits:
    """Sets the operator's limits for a vault."""
    request = admin_pb.UpdateVaultLimitsRequest(
        limits=admin_pb.VaultLimits(vault_id=vault_id, budget=Budget(**limits)), update_mask=FieldMask(paths=["budget"])
    )
    return (await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)).limits
