"""Statistics of vaults, for operators."""

from dataclasses import dataclass

from metamorphd.models.vault import Budget, BudgetStatus, StorageStatus, VaultLimits, VaultStatus


@dataclass(frozen=True, slots=True)
class Spending:
    """The tokens and the cost of a vault's turns in some time."""

    tokens: int = 0
    cost_usd_nanos: int = 0


@dataclass(frozen=True, slots=True)
class VaultSummary:
    """A vault, which need not have been used yet: then it has no `create_time`.

    `last_activity_time` is that of the newest change in its log. `today` and `this_month` are UTC.
    """

    status: VaultStatus
    display_name: str
    create_time: int | None
    last_activity_time: int | None
    stored_bytes: int
    today: Spending
    this_month: Spending


@dataclass(frozen=True, slots=True)
class VaultCounts:
    """How many of each kind a vault stores. What is deleted counts until it is erased."""

    sessions: int = 0
    messages: int = 0
    turns: int = 0
    attachments: int = 0
    secrets: int = 0
    memories: int = 0


@dataclass(frozen=True, slots=True)
class VaultStats:
    """A vault in detail. `budget` is its own, `limits` are the operator's, `budgets` the state of what applies."""

    summary: VaultSummary
    counts: VaultCounts
    running_turns: int
    storage: StorageStatus
    budget: Budget
    limits: VaultLimits
    budgets: tuple[BudgetStatus, ...]
    revision: int
