"""Vaults and their budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on usage per day and month (UTC). None means no limit, 0 allows nothing."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_usd_nanos_per_day: int | None = None
    cost_usd_nanos_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class SubjectBudgets:
    """Budgets of users, and of labels by `key=value`. `default_user` is that of each user who is not in `users`."""

    default_user: Budget = Budget()
    users: Mapping[str, Budget] = field(default_factory=dict)
    labels: Mapping[str, Budget] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """The state of one limit of a budget. `budget` is its name in Budget; running turns hold what is `reserved`.

    It is the limit of a user if there is a `user_id`, of a label if there is a `label`, and otherwise of the vault.
    """

    budget: str
    limit: int
    used: int
    reserved: int
    reset_time: int
    user_id: str = ""
    label: str = ""

    @property
    def left(self) -> int:
        """Returns what is neither used nor reserved, at least 0."""
        return max(0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """The bytes that a vault stores, and its limit; None means no limit."""

    stored_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class Vault:
    """A vault. The budgets of an operator are beside its own; the lower of two limits applies.

    `retention_days` is how long sessions are kept that nobody uses, 0 for ever.
    """

    vault_id: str
    display_name: str
    default_model: str
    system_prompt: str
    budget: Budget
    operator_budget: Budget
    subject_budgets: SubjectBudgets
    operator_subject_budgets: SubjectBudgets
    create_time: int
    update_time: int
    revision: int
    retention_days: int = 0


@dataclass(frozen=True, slots=True)
class VaultLimits:
    """The operator's limits on a vault, which need not exist yet. `update_time` is None if none were ever set.

    `storage_bytes` is None where the server's default applies.
    """

    vault_id: str
    budget: Budget
    subject_budgets: SubjectBudgets
    update_time: int | None
    storage_bytes: int | None = None


class VaultState(StrEnum):
    """Whether callers of a vault may do anything, or nothing until an operator changes that."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """The state of a vault, which need not exist yet. An active one has no reason, no actor and no time.

    `actor` is the operator who suspended it, or the user who deleted it, at `change_time`.
    """

    vault_id: str
    state: VaultState = VaultState.ACTIVE
    reason: str = ""
    actor: str = ""
    change_time: int | None = None


@dataclass(frozen=True, slots=True)
class VaultChanges:
    """New values of the fields that a user can set. None keeps the value."""

    display_name: str | None = None
    default_model: str | None = None
    system_prompt: str | None = None
    retention_days: int | None = None
    budget: Budget | None = None
    subject_budgets: SubjectBudgets | None = None
