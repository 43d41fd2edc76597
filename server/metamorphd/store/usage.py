"""The usage of turns, by day, session and model."""

from dataclasses import asdict
from datetime import date

from metamorphd.clock import day_of
from metamorphd.models.page import Page
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage, UsageRow
from metamorphd.store.codec import decode_usage
from metamorphd.store.database import Row, Transaction
from metamorphd.store.paging import page_of

COUNT_USAGE = """
INSERT INTO usage (vault_id, day, session_id, model, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, cost_usd_nanos, turns)
VALUES (:vault_id, :day, :session_id, :model, :input_tokens, :output_tokens, :cache_read_tokens,
    :cache_write_tokens, :cost_usd_nanos, :turns)
ON CONFLICT (vault_id, day, session_id, model) DO UPDATE SET
    input_tokens = usage.input_tokens + excluded.input_tokens,
    output_tokens = usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = usage.cache_write_tokens + excluded.cache_write_tokens,
    cost_usd_nanos = usage.cost_usd_nanos + excluded.cost_usd_nanos,
    turns = usage.turns + excluded.turns
"""
COUNT_SPENDING = """
INSERT INTO spending (vault_id, day, tokens, cost_usd_nanos)
VALUES (:vault_id, :day, :tokens, :cost_usd_nanos)
ON CONFLICT (vault_id, day) DO UPDATE SET
    tokens = spending.tokens + excluded.tokens, cost_usd_nanos = spending.cost_usd_nanos + excluded.cost_usd_nanos
"""
HAS_TURN = "SELECT turn_id FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
_SUMS = """
    COALESCE(SUM(input_tokens), 0) AS input_tokens, COALESCE(SUM(output_tokens), 0) AS output_tokens,
    COALESCE(SUM(cache_read_tokens), 0) AS cache_read_tokens,
    COALESCE(SUM(cache_write_tokens), 0) AS cache_write_tokens,
    COALESCE(SUM(cost_usd_nanos), 0) AS cost_usd_nanos, COALESCE(SUM(turns), 0) AS turns
FROM usage
WHERE vault_id = :vault_id AND day BETWEEN :start_day AND :end_day
    AND (:session_id IS NULL OR session_id = :session_id)
    AND (:model IS NULL OR model = :model)
"""
LIST_USAGE = (
    """
WITH grouped AS (
    SELECT CASE WHEN :by_day THEN day ELSE '' END AS day, CASE WHEN :by_model THEN model ELSE '' END AS model,
        CASE WHEN :by_session THEN session_id ELSE '' END AS session_id, """
    + _SUMS
    + """
    GROUP BY 1, 2, 3
)
SELECT day, model, session_id, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos,
    turns, COUNT(*) OVER () AS candidate_count
FROM (
    SELECT * FROM grouped
    WHERE :after_day IS NULL OR (day, model, session_id) > (:after_day, :after_model, :after_session)
    ORDER BY day, model, session_id
    LIMIT :page_size + 1
) AS page
ORDER BY day, model, session_id
"""
)
SUM_USAGE = "SELECT '' AS day, '' AS model, '' AS session_id, " + _SUMS


def _usage_row(row: Row) -> UsageRow:
    return UsageRow(row.day, row.model, row.session_id, decode_usage(row), row.turns)


def tokens_of(usage: Usage) -> int:
    """All tokens together, as budgets count them."""
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens


async def count_usage(tx: Transaction, *, session_id: str, model: str, usage: Usage, now: int, turns: int = 1) -> None:
    """Adds what a turn has cost to the day of `now`. Once a turn, whatever became of it; 0 turns for what is none."""
    day = day_of(now).isoformat()
    await tx.run(COUNT_USAGE, day=day, session_id=session_id, model=model, turns=turns, **asdict(usage))
    await tx.run(COUNT_SPENDING, day=day, tokens=tokens_of(usage), cost_usd_nanos=usage.cost_usd_nanos)


async def count_deleted_usage(tx: Transaction, *, turn: Turn, usage: Usage, now: int) -> None:
    """Adds what a turn has cost that was deleted while it ran. One that is still there was counted when it ended."""
    if await tx.one(HAS_TURN, turn_id=turn.turn_id) is None:
        await count_usage(tx, session_id=turn.session_id, model=turn.model, usage=usage, now=now)


async def list_usage(
    tx: Transaction,
    *,
    start_day: date,
    end_day: date,
    session_id: str | None,
    model: str | None,
    by_day: bool,
    by_model: bool,
    by_session: bool,
    after: tuple[int | str, ...] | None,
    page_size: int,
) -> tuple[Page[UsageRow], UsageRow]:
    """One page of what was used from `start_day` to `end_day`, both included, and the sum of all pages.

    Ordered by day, then model, then session, as far as grouped by them; `after` is (day, model, session id).
    """
    query = {
        "start_day": start_day.isoformat(),
        "end_day": end_day.isoformat(),
        "session_id": session_id,
        "model": model,
    }
    after_day, after_model, after_session = after or (None, None, None)
    rows = await tx.all(
        LIST_USAGE,
        by_day=by_day,
        by_model=by_model,
        by_session=by_session,
        after_day=after_day,
        after_model=after_model,
        after_session=after_session,
        page_size=page_size,
        **query,
    )
    page = page_of(rows, page_size, item=_usage_row, after=lambda row: (row.day, row.model, row.session_id))
    total = await tx.one(SUM_USAGE, **query)
    return page, UsageRow("", "", "", Usage(), 0) if total is None else _usage_row(total)
