"""Budgets in words, as lists and summaries show them."""

from metamorph_client.vault.v1.usage_pb2 import BudgetStatus

from metamorphd.cli.backups import shown_time
from metamorphd.cli.listing import printable
from metamorphd.cli.money import dollars


def budget_name(budget: BudgetStatus) -> str:
    """Returns the name of a limit, with the user or the label whose it is."""
    of = budget.user_id or budget.label
    return f"{budget.budget}{f' of {printable(of)}' if of else ''}"


def budget_left(budget: BudgetStatus) -> str:
    """Returns what is left of a limit, and until when."""
    shown = dollars if budget.budget.startswith("cost_usd_nanos") else "{:,}".format
    return f"{shown(budget.left)} of {shown(budget.limit)} left until {shown_time(budget.reset_time.seconds)} UTC"
