"""Budgets: a turn reserves of them when it starts, and its real use is counted when it ends.

A reservation is two columns of the running turn and nothing else, so it ends with the turn, however that ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields

from metamorphd.catalog import Catalog
from metamorphd.clock import beginning, day_of, next_day, next_month, rfc3339
from metamorphd.errors import BudgetExceeded, QuotaViolation
from metamorphd.models.content import attachment_blocks
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.vault import Budget, BudgetStatus
from metamorphd.store.branches import PROMPT_BRANCH
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Transaction

GET_BUDGETS = """
SELECT tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month
FROM vaults WHERE vault_id = :vault_id
UNION ALL
SELECT tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month
FROM vault_limits WHERE vault_id = :vault_id
"""
GET_SPENT = """
SELECT COALESCE(SUM(CASE WHEN day = :today THEN tokens END), 0) AS tokens_per_day,
    COALESCE(SUM(tokens), 0) AS tokens_per_month,
    COALESCE(SUM(CASE WHEN day = :today THEN cost_usd_nanos END), 0) AS cost_usd_nanos_per_day,
    COALESCE(SUM(cost_usd_nanos), 0) AS cost_usd_nanos_per_month
FROM (
    SELECT day, input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS tokens, cost_usd_nanos
    FROM daily_usage
    WHERE vault_id = :vault_id AND day >= :month AND day < :next_month
) AS spent
"""
# Found by the index of running turns alone, in which there is no other column.
GET_RESERVED = """
SELECT COALESCE(SUM(turn.reserved_tokens), 0) AS tokens,
    COALESCE(SUM(turn.reserved_cost_usd_nanos), 0) AS cost_usd_nanos
FROM turns AS running CROSS JOIN turns AS turn
WHERE running.vault_id = :vault_id AND running.status = 'RUNNING'
    AND turn.vault_id = :vault_id AND turn.turn_id = running.turn_id
"""
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


async def get_budgets(tx: Transaction, *, now: int) -> list[BudgetStatus]:
    """Returns each limit in force for the vault, the lower of its own and the operator's. Empty without a budget."""
    rows = await tx.all(GET_BUDGETS)
    limits = {name: _lowest(getattr(row, name) for row in rows) for name in NAMES}
    if not any(limit is not None for limit in limits.values()):
        return []
    today = day_of(now)
    month = today.replace(day=1)
    used = await tx.one(
        GET_SPENT, today=today.isoformat(), month=month.isoformat(), next_month=next_month(today).isoformat()
    )
    reserved = await tx.one(GET_RESERVED)
    resets = {"day": beginning(next_day(today)), "month": beginning(next_month(today))}
    return [
        BudgetStatus(name, limit, getattr(used, name), getattr(reserved, unit), resets[period])
        for name, limit in limits.items()
        for unit, _, period in [name.partition("_per_")]
        if limit is not None
    ]


def _lowest(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


async def admit_turn(tx: Transaction, *, now: int) -> bool:
    """Returns whether the vault has a budget, of which a turn must reserve.

    Raises BudgetExceeded when a limit is used up or reserved by running turns.
    """
    budgets = await get_budgets(tx, now=now)
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
        budget=last.budget,
        limit=last.limit,
        reset_time=rfc3339(last.reset_time),
        retry_delay=(last.reset_time - now) / 1_000_000,
        quotas=[
            QuotaViolation(budget.budget, f"{budget.limit} are used up until {rfc3339(budget.reset_time)}")
            for budget in exceeded
        ],
    )
