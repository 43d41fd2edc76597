"""Budgets of users and of labels: docs/decisions/0053-budgets-of-users-and-labels.md."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum

from metamorphd.models.usage import SubjectKind
from metamorphd.models.vault import Budget, SubjectBudgets
from metamorphd.store.database import Row, SqlValue, Transaction
from metamorphd.store.labels import MOST_LABELS

_COLUMNS = "tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month"
LIST_SUBJECT_BUDGETS = f"""
SELECT kind, subject, set_by, {_COLUMNS} FROM subject_budgets
WHERE vault_id = :vault_id
ORDER BY kind, subject, set_by
"""
GET_BUDGETS_OF_USER = f"""
SELECT subject, set_by, {_COLUMNS} FROM subject_budgets
WHERE vault_id = :vault_id AND kind = 'user' AND subject IN (:subject, '')
ORDER BY subject
"""
GET_BUDGETS_OF_LABELS = f"""
SELECT subject, {_COLUMNS} FROM subject_budgets
WHERE vault_id = :vault_id AND kind = 'label'
    AND subject IN (:label0, :label1, :label2, :label3, :label4, :label5, :label6, :label7)
"""
DELETE_SUBJECT_BUDGETS = "DELETE FROM subject_budgets WHERE vault_id = :vault_id AND set_by = :set_by"
CREATE_SUBJECT_BUDGET = f"""
INSERT INTO subject_budgets (vault_id, kind, subject, set_by, {_COLUMNS})
VALUES (:vault_id, :kind, :subject, :set_by, :tokens_per_day, :tokens_per_month, :cost_usd_nanos_per_day,
    :cost_usd_nanos_per_month)
"""
# The subject of a budget that holds for each user without one of their own.
EACH_USER = ""


class SetBy(StrEnum):
    VAULT = "vault"
    OPERATOR = "operator"


def budget_of(row: Row) -> Budget:
    """Returns the budget in a row, whose columns are named as its fields."""
    return Budget(
        tokens_per_day=row.tokens_per_day,
        tokens_per_month=row.tokens_per_month,
        cost_usd_nanos_per_day=row.cost_usd_nanos_per_day,
        cost_usd_nanos_per_month=row.cost_usd_nanos_per_month,
    )


async def list_subject_budgets(tx: Transaction) -> Mapping[SetBy, SubjectBudgets]:
    """Returns the budgets of the vault's users and labels, by who set them."""
    rows = await tx.all(LIST_SUBJECT_BUDGETS)
    return {set_by: _subject_budgets([row for row in rows if row.set_by == set_by]) for set_by in SetBy}


def _subject_budgets(rows: Sequence[Row]) -> SubjectBudgets:
    users = {row.subject: budget_of(row) for row in rows if row.kind == SubjectKind.USER}
    labels = {row.subject: budget_of(row) for row in rows if row.kind == SubjectKind.LABEL}
    return SubjectBudgets(default_user=users.pop(EACH_USER, Budget()), users=users, labels=labels)


async def put_subject_budgets(tx: Transaction, *, set_by: SetBy, budgets: SubjectBudgets) -> None:
    """Replaces the budgets of users and labels that the vault, or its operator, has set."""
    await tx.run(DELETE_SUBJECT_BUDGETS, set_by=set_by)
    for kind, subject, budget in _rows(budgets):
        await tx.run(CREATE_SUBJECT_BUDGET, kind=kind, subject=subject, set_by=set_by, **asdict(budget))


def _rows(budgets: SubjectBudgets) -> Iterator[tuple[SubjectKind, str, Budget]]:
    # An empty budget of a user is stored, because it is in place of the default.
    if budgets.default_user != Budget():
        yield SubjectKind.USER, EACH_USER, budgets.default_user
    for user_id, budget in budgets.users.items():
        yield SubjectKind.USER, user_id, budget
    for label, budget in budgets.labels.items():
        yield SubjectKind.LABEL, label, budget


async def budgets_of_user(tx: Transaction, *, user_id: str) -> list[Budget]:
    """Returns the budgets that hold for a user: of the vault and of the operator the user's own, else the default."""
    rows = await tx.all(GET_BUDGETS_OF_USER, subject=user_id)
    # The default comes first, and is replaced.
    return [budget_of(row) for row in {row.set_by: row for row in rows}.values()]


async def budgets_of_labels(tx: Transaction, *, labels: Iterable[str]) -> dict[str, list[Budget]]:
    """Returns the budgets of each of at most MOST_LABELS labels that has one."""
    names: dict[str, SqlValue] = {f"label{place}": None for place in range(MOST_LABELS)}
    names |= {f"label{place}": label for place, label in enumerate(labels)}
    found: dict[str, list[Budget]] = {}
    for row in await tx.all(GET_BUDGETS_OF_LABELS, **names):
        found.setdefault(row.subject, []).append(budget_of(row))
    return found
