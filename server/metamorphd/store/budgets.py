"""Budgets of vaults, users and labels: a turn reserves of them as it starts, and its real use is counted when it ends.

A reservation is two columns of the running turn and nothing else, so it ends with the turn, however that ends.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

from metamorphd.catalog import Catalog
from metamorphd.clock import beginning, day_of, next_day, next_month, rfc3339
from metamorphd.errors import BudgetExceeded, QuotaViolation
from metamorphd.models.content import attachment_blocks
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.usage import SubjectKind
from metamorphd.models.vault import Budget, BudgetStatus
from metamorphd.store.branches import PROMPT_BRANCH
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Row, SqlValue, Transaction
from metamorphd.store.labels import label_names, stored_pair
from metamorphd.store.subject_budgets import budget_of, budgets_of_labels, budgets_of_user

GET_BUDGETS = """
SELECT tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month
FROM vaults WHERE vault_id = :vault_id
UNION ALL
SELECT tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month
FROM vault_limits WHERE vault_id = :vault_id
"""
_SPENT = """
SELECT COALESCE(SUM(CASE WHEN day = :today THEN tokens END), 0) AS tokens_per_day,
    COALESCE(SUM(tokens), 0) AS tokens_per_month,
    COALESCE(SUM(CASE WHEN day = :today THEN cost_usd_nanos END), 0) AS cost_usd_nanos_per_day,
    COALESCE(SUM(cost_usd_nanos), 0) AS cost_usd_nanos_per_month
FROM (
    SELECT day, input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS tokens, cost_usd_nanos
    FROM {source} AND day >= :month AND day < :next_month
) AS spent
"""
GET_SPENT = _SPENT.format(source="daily_usage WHERE vault_id = :vault_id")
GET_SPENT_BY_SUBJECT = _SPENT.format(
    source="subject_usage WHERE vault_id = :vault_id AND kind = :kind AND subject = :subject"
)
# Found by the index of running turns alone, in which there is no other column.
GET_RESERVED = """
SELECT COALESCE(SUM(turn.reserved_tokens), 0) AS tokens,
    COALESCE(SUM(turn.reserved_cost_usd_nanos), 0) AS cost_usd_nanos
FROM turns AS running CROSS JOIN turns AS turn
WHERE running.vault_id = :vault_id AND running.status = 'RUNNING'
    AND turn.vault_id = :vault_id AND turn.turn_id = running.turn_id
"""
GET_RESERVED_BY_USER = GET_RESERVED + "    AND turn.creator = :subject\n"
# `pair` is a label as it is stored, in which nothing is escaped.
GET_RESERVED_BY_LABEL = GET_RESERVED + "    AND replace(turn.labels, :pair, '') <> turn.labels\n"
# The messages that the model will read; content only of those with attachments, whose size in bytes is not enough.
GET_BRANCH_SIZES = (
    PROMPT_BRANCH
    + """
SELECT branch.size, CASE WHEN delete_time IS NULL AND content LIKE '%"attachment_id"%' THEN content END AS content
FROM branch CROSS JOIN messages
WHERE messages.vault_id = :vault_id AND messages.message_id = branch.id
"""
)
NAMES = [field.name for field in fields(Budget)]
# Of a refusal, whose details must fit into the trailers, 8 KiB.
MOST_QUOTAS = 8


async def get_vault_budgets(tx: Transaction, *, now: int) -> list[BudgetStatus]:
    """Returns each limit in force for the vault as a whole, the lower of the vault's own and the operator's."""
    limits = _limits([budget_of(row) for row in await tx.all(GET_BUDGETS)])
    if not limits:
        return []
    spent = await tx.one(GET_SPENT, **_days(now))
    return list(_statuses(limits, spent, await tx.one(GET_RESERVED), now))


async def get_budgets(tx: Transaction, *, user_id: str, labels: Sequence[str], now: int) -> list[BudgetStatus]:
    """Returns each limit in force for the vault, for a user, and for labels, by their names; empty without a budget.

    Each is the lowest that was set, by the vault or by the operator.
    """
    statuses = await get_vault_budgets(tx, now=now)
    if limits := _limits(await budgets_of_user(tx, user_id=user_id)):
        spent = await tx.one(GET_SPENT_BY_SUBJECT, kind=SubjectKind.USER, subject=user_id, **_days(now))
        reserved = await tx.one(GET_RESERVED_BY_USER, subject=user_id)
        statuses += _statuses(limits, spent, reserved, now, user_id=user_id)
    for label, budgets in sorted((await budgets_of_labels(tx, labels=labels)).items() if labels else ()):
        if limits := _limits(budgets):
            spent = await tx.one(GET_SPENT_BY_SUBJECT, kind=SubjectKind.LABEL, subject=label, **_days(now))
            reserved = await tx.one(GET_RESERVED_BY_LABEL, pair=stored_pair(label))
            statuses += _statuses(limits, spent, reserved, now, label=label)
    return statuses


def _limits(budgets: Iterable[Budget]) -> dict[str, int]:
    """Returns the lowest of each limit that is set in some of the budgets, by its name."""
    limits = {name: [limit for budget in budgets if (limit := getattr(budget, name)) is not None] for name in NAMES}
    return {name: min(found) for name, found in limits.items() if found}


def _days(now: int) -> dict[str, SqlValue]:
    today = day_of(now)
    month = today.replace(day=1)
    return {"today": today.isoformat(), "month": month.isoformat(), "next_month": next_month(today).isoformat()}


def _statuses(
    limits: Mapping[str, int], spent: Row | None, reserved: Row | None, now: int, *, user_id: str = "", label: str = ""
) -> Iterator[BudgetStatus]:
    today = day_of(now)
    resets = {"day": beginning(next_day(today)), "month": beginning(next_month(today))}
    for name, limit in limits.items():
        unit, _, period = name.partition("_per_")
        used, held = getattr(spent, name), getattr(reserved, unit)
        yield BudgetStatus(name, limit, used, held, resets[period], user_id, label)


async def admit_turn(tx: Transaction, *, user_id: str, labels: Mapping[str, str], now: int) -> bool:
    """Returns whether there is a budget, of which a turn of the user with these labels must reserve.

    Raises BudgetExceeded when a limit is used up or reserved by running turns.
    """
    budgets = await get_budgets(tx, user_id=user_id, labels=label_names(labels), now=now)
    exceeded = [budget for budget in budgets if budget.left == 0]
    if exceeded:
        raise _budget_exceeded(exceeded, now)
    return bool(budgets)


async def reserve(
    tx: Transaction,
    *,
    session_id: str,
    user_message_id: str,
    system_prompt: str,
    options: EffectiveOptions,
    catalog: Catalog,
    output_tokens: int,
    compact_above: int,
) -> tuple[int, int]:
    """Returns (tokens, cost) that a turn must reserve, the most that its call can use.

    `options` name the model and the reply has at most `output_tokens`. A call that reads more than `compact_above` is
    summarized first, unless that is 0.
    """
    read = await most_input_tokens(
        tx,
        session_id=session_id,
        user_message_id=user_message_id,
        system_prompt=system_prompt,
        options=options,
        catalog=catalog,
    )
    calls = 2 if 0 < compact_above < read else 1
    cost = catalog.most_cost(options.model, input_tokens=read, output_tokens=output_tokens)
    return calls * (read + output_tokens), calls * cost


async def most_input_tokens(
    tx: Transaction,
    *,
    session_id: str,
    user_message_id: str,
    system_prompt: str,
    options: EffectiveOptions,
    catalog: Catalog,
) -> int:
    """Returns the most tokens that the prompt of a turn can have. `options` name the model."""
    model = catalog.model(options.model)
    branch = await tx.all(
        GET_BRANCH_SIZES, session_id=session_id, leaf_message_id=user_message_id, max_bytes=model.context_bytes
    )
    contents = [decode_content(message.content) for message in branch if message.content is not None]
    attachments = [block for content in contents for block in attachment_blocks(content)]
    return model.most_input_tokens(
        system_prompt=system_prompt,
        options=options,
        message_bytes=sum(message.size for message in branch),
        attachments=attachments,
    )


def _budget_exceeded(exceeded: Sequence[BudgetStatus], now: int) -> BudgetExceeded:
    """Names the limit that is the last to begin anew: before that, repeating cannot help."""
    last = max(exceeded, key=lambda budget: budget.reset_time)
    return BudgetExceeded(
        subject=_subject(last),
        budget=last.budget,
        limit=last.limit,
        reset_time=rfc3339(last.reset_time),
        retry_delay=(last.reset_time - now) / 1_000_000,
        quotas=[
            QuotaViolation(_named(budget), f"{budget.limit} are used up until {rfc3339(budget.reset_time)}")
            for budget in exceeded[:MOST_QUOTAS]
        ],
    )


def _subject(status: BudgetStatus) -> str:
    """Returns whose limit it is. The user is the one who calls, whose ID may be too long for the trailers."""
    return f"label:{status.label}" if status.label else "user" if status.user_id else "vault"


def _named(status: BudgetStatus) -> str:
    subject = _subject(status)
    return status.budget if subject == "vault" else f"{subject}/{status.budget}"
