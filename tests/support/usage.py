"""Calls that read usage and set budgets."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorph_client.vault.v1.usage_pb2 import Budget
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


# What the budgets of a turn can be of, and how `budgets` names each: the turns are alice's, and have this label.
OF_VAULT, OF_USER, OF_LABEL = "", "alice/", "team=web/"
LABELS = {"team": "web"}


async def budgets(caller: Caller, **query: str) -> dict[str, usage_pb2.BudgetStatus]:
    """Returns the states of budgets by name, after a user or a label and a slash."""
    found = (await usage(caller, **query)).budgets
    return {"/".join(filter(None, (each.user_id or each.label, each.budget))): each for each in found}


async def allow(caller: Caller, of: str = OF_VAULT, **limits: int) -> None:
    """Sets the vault's own budget, or that of a user or a label, as a user with the permission."""
    budget, subject = Budget(**limits), of.rstrip("/")
    if of == OF_VAULT:
        await update(caller, budget=budget)
    elif "=" in of:
        await allow_subjects(caller, labels={subject: budget})
    else:
        await allow_subjects(caller, users={subject: budget})


async def allow_subjects(caller: Caller, **fields: Any) -> vault_pb.Vault:
    """Sets the vault's own budgets of users and labels, as `subject_budgets` takes them."""
    return await update(caller, subject_budgets=subject_budgets(**fields))


def subject_budgets(
    *,
    default_user: Budget | None = None,
    users: Mapping[str, Budget] = MappingProxyType({}),
    labels: Mapping[str, Budget] = MappingProxyType({}),
) -> usage_pb2.SubjectBudgets:
    """Returns budgets of users and labels by their names."""
    return usage_pb2.SubjectBudgets(
        default_user=default_user,
        users=[usage_pb2.UserBudget(user_id=user, budget=budget) for user, budget in users.items()],
        labels=[usage_pb2.LabelBudget(label=label, budget=budget) for label, budget in labels.items()],
    )


async def update(caller: Caller, **fields: Any) -> vault_pb.Vault:
    """Changes fields of the vault."""
    request = vault_pb.UpdateVaultRequest(vault=vault_pb.Vault(**fields), update_mask=FieldMask(paths=list(fields)))
    return (await caller.vault.UpdateVault(request, metadata=caller.metadata)).vault


async def limit(operator: Caller, vault_id: str, **limits: int) -> admin_pb.VaultLimits:
    """Sets the operator's limits for a vault."""
    request = admin_pb.UpdateVaultLimitsRequest(
        limits=admin_pb.VaultLimits(vault_id=vault_id, budget=Budget(**limits)), update_mask=FieldMask(paths=["budget"])
    )
    return (await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)).limits
