"""A vault and its budgets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What a vault may use up in a day or a month (UTC): None is no limit, 0 is nothing."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_usd_nanos_per_day: int | None = None
    cost_usd_nanos_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How far one limit of a budget is used up. `budget` is its name in Budget; what running turns hold is reserved."""

    budget: str
    limit: int
    used: int
    reserved: int
    reset_time: int

    @property
    def left(self) -> int:
        """What is neither used nor reserved, at least 0."""
        return max(0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True)
class Vault:
    """`budget` is the vault's own, `operator_budget` the operator's: of each limit the lower one counts."""

    vault_id: str
    display_name: str
    default_model: str
    system_prompt: str
    budget: Budget
    operator_budget: Budget
    create_time: int
    update_time: int
    revision: int


@dataclass(frozen=True, slots=True)
class VaultLimits:
    """What the operator allows a vault, which need not be there yet. `update_time` is None where nothing was set."""

    vault_id: str
    budget: Budget
    update_time: int | None
