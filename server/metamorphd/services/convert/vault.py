"""Converts vaults, budgets and usage to protobuf and back."""

from metamorph_client.admin.v1 import admin_service_pb2
from metamorph_client.vault.v1 import usage_pb2, vault_service_pb2

from metamorphd.models.vault import Budget, BudgetStatus, StorageStatus, SubjectBudgets, Vault, VaultLimits
from metamorphd.services.convert.time import timestamp


def vault_to_proto(vault: Vault) -> vault_service_pb2.Vault:
    """Returns a vault."""
    return vault_service_pb2.Vault(
        vault_id=vault.vault_id,
        display_name=vault.display_name,
        default_model=vault.default_model,
        system_prompt=vault.system_prompt,
        create_time=timestamp(vault.create_time),
        update_time=timestamp(vault.update_time),
        etag=str(vault.revision),
        retention_days=vault.retention_days,
        budget=budget_to_proto(vault.budget),
        operator_budget=budget_to_proto(vault.operator_budget),
        subject_budgets=subject_budgets_to_proto(vault.subject_budgets),
        operator_subject_budgets=subject_budgets_to_proto(vault.operator_subject_budgets),
    )


def budget_to_proto(budget: Budget) -> usage_pb2.Budget:
    """Returns a budget; absent fields are not limited."""
    return usage_pb2.Budget(
        tokens_per_day=budget.tokens_per_day,
        tokens_per_month=budget.tokens_per_month,
        cost_usd_nanos_per_day=budget.cost_usd_nanos_per_day,
        cost_usd_nanos_per_month=budget.cost_usd_nanos_per_month,
    )


def budget_from_proto(budget: usage_pb2.Budget) -> Budget:
    """Returns a budget, which has passed the rules of its proto."""
    return Budget(**{field.name: value for field, value in budget.ListFields()})


def subject_budgets_to_proto(budgets: SubjectBudgets) -> usage_pb2.SubjectBudgets:
    """Returns the budgets of users and labels."""
    return usage_pb2.SubjectBudgets(
        default_user=None if budgets.default_user == Budget() else budget_to_proto(budgets.default_user),
        users=[
            usage_pb2.UserBudget(user_id=user_id, budget=budget_to_proto(budget))
            for user_id, budget in budgets.users.items()
        ],
        labels=[
            usage_pb2.LabelBudget(label=label, budget=budget_to_proto(budget))
            for label, budget in budgets.labels.items()
        ],
    )


def subject_budgets_from_proto(budgets: usage_pb2.SubjectBudgets) -> SubjectBudgets:
    """Returns the budgets of users and labels, which have passed the rules of their proto."""
    return SubjectBudgets(
        default_user=budget_from_proto(budgets.default_user),
        users={each.user_id: budget_from_proto(each.budget) for each in budgets.users},
        labels={each.label: budget_from_proto(each.budget) for each in budgets.labels},
    )


def limits_to_proto(limits: VaultLimits) -> admin_service_pb2.VaultLimits:
    """Returns the limits of a vault."""
    return admin_service_pb2.VaultLimits(
        vault_id=limits.vault_id,
        budget=budget_to_proto(limits.budget),
        subject_budgets=subject_budgets_to_proto(limits.subject_budgets),
        update_time=timestamp(limits.update_time),
        storage_bytes=limits.storage_bytes,
    )


def storage_to_proto(status: StorageStatus) -> usage_pb2.StorageStatus:
    """Returns the storage of a vault; an absent limit is none."""
    return usage_pb2.StorageStatus(stored_bytes=status.stored_bytes, limit_bytes=status.limit_bytes)


def budget_status_to_proto(status: BudgetStatus) -> usage_pb2.BudgetStatus:
    """Returns the state of one limit."""
    return usage_pb2.BudgetStatus(
        budget=status.budget,
        limit=status.limit,
        used=status.used,
        reserved=status.reserved,
        left=status.left,
        reset_time=timestamp(status.reset_time),
        user_id=status.user_id,
        label=status.label,
    )
