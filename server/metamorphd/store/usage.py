"""The usage of turns, by day, session and model."""

from dataclasses import asdict
from datetime import date

from metamorphd.clock import day_of
from metamorphd.models.page import Page
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage, UsageRow
from metamorphd.store.codec import decode_usage
from metamorphd.store.database import Row, SqlValue, Transaction

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
COUNT_DAILY_USAGE = """
INSERT INTO daily_usage (vault_id, day, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    cost_usd_nanos, turns)
VALUES (:vault_id, :day, :model, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens,
    :cost_usd_nanos, :turns)
ON CONFLICT (vault_id, day, model) DO UPDATE SET
    input_tokens = daily_usage.input_tokens + excluded.input_tokens,
    output_tokens = daily_usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = daily_usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = daily_usage.cache_write_tokens + excluded.cache_write_tokens,
    cost_usd_nanos = daily_usage.cost_usd_nanos + excluded.cost_usd_nanos,
    turns = daily_usage.turns + excluded.turns
"""
HAS_TURN = """
SELECT turn_id FROM turns CROSS JOIN sessions
WHERE turns.vault_id = :vault_id AND turn_id = :turn_id
    AND sessions.vault_id = :vault_id AND sessions.session_id = turns.session_id AND sessions.delete_time IS NULL
"""
_SUMS = """
    COALESCE(SUM(input_tokens), 0) AS input_tokens, COALESCE(SUM(output_tokens), 0) AS output_tokens,
    COALESCE(SUM(cache_read_tokens), 0) AS cache_read_tokens,
    COALESCE(SUM(cache_write_tokens), 0) AS cache_write_tokens,
    COALESCE(SUM(cost_usd_nanos), 0) AS cost_usd_nanos, COALESCE(SUM(turns), 0) AS turns"""
_OF_VAULT = """
FROM daily_usage
WHERE vault_id = :vault_id AND day BETWEEN :start_day AND :end_day AND (:model IS NULL OR model = :model)"""
_OF_SESSION = """
FROM usage
WHERE vault_id = :vault_id AND session_id = :session_id AND day BETWEEN :start_day AND :end_day
    AND (:model IS NULL OR model = :model)"""


def _sum(source: str) -> str:
    return f"SELECT '' AS day, '' AS model, '' AS session_id, {_SUMS} {source}"


def _page(source: str, session_id: str) -> str:
    """Returns a statement for a page of the sums of a few rows: those of a vault or of a session within some days."""
    return f"""
SELECT CASE WHEN :by_day THEN day ELSE '' END AS day, CASE WHEN :by_model THEN model ELSE '' END AS model,
    {session_id} AS session_id, {_SUMS}
{source}
    AND (:after_day IS NULL OR (CASE WHEN :by_day THEN day ELSE '' END, CASE WHEN :by_model THEN model ELSE '' END)
        > (:after_day, :after_model))
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT :page_size + 1
"""


def _page_by_session(*columns: str) -> str:
    """Returns a statement for a page of sums that are told apart by `columns`, the first ones of an index."""
    day, model = (name if name in columns else "''" for name in ("day", "model"))
    listed = ", ".join(columns)
    after = ", ".join(f":after_{name}" for name in columns)
    return f"""
SELECT {day} AS day, {model} AS model, session_id, {_SUMS}
FROM usage
WHERE vault_id = :vault_id AND ({listed}) > ({after}) AND day BETWEEN :start_day AND :end_day
    AND (:model IS NULL OR model = :model)
GROUP BY {listed}
ORDER BY {listed}
LIMIT :page_size + 1
"""


SUM_OF_VAULT, SUM_OF_SESSION = _sum(_OF_VAULT), _sum(_OF_SESSION)
LIST_OF_VAULT, LIST_OF_SESSION = _page(_OF_VAULT, "''"), _page(_OF_SESSION, ":shown_session_id")
LIST_BY_SESSION = _page_by_session("session_id")
LIST_BY_DAY_AND_SESSION = _page_by_session("day", "session_id")
LIST_BY_MODEL_AND_SESSION = _page_by_session("model", "session_id")
LIST_DAYS_AND_MODELS = """
SELECT day, model FROM daily_usage
WHERE vault_id = :vault_id AND (day, model) >= (:after_day, :after_model) AND day BETWEEN :start_day AND :end_day
    AND (:model IS NULL OR model = :model)
ORDER BY day, model
"""
LIST_OF_DAY_AND_MODEL = """
SELECT day, model, session_id, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos,
    turns
FROM usage
WHERE vault_id = :vault_id AND day = :day AND model = :model AND session_id > :after_session_id
ORDER BY session_id
LIMIT :limit
"""


def _usage_row(row: Row) -> UsageRow:
    return UsageRow(row.day, row.model, row.session_id, decode_usage(row), row.turns)


async def count_usage(tx: Transaction, *, session_id: str, model: str, usage: Usage, now: int, turns: int = 1) -> None:
    """Adds what a turn has cost to the day of `now`. Once a turn, whatever became of it; 0 turns for what is none."""
    day = day_of(now).isoformat()
    await tx.run(COUNT_USAGE, day=day, session_id=session_id, model=model, turns=turns, **asdict(usage))
    await tx.run(COUNT_DAILY_USAGE, day=day, model=model, turns=turns, **asdict(usage))


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
    query = {"start_day": start_day.isoformat(), "end_day": end_day.isoformat(), "model": model}
    page: dict[str, SqlValue] = {"page_size": page_size, **query}
    rows: list[Row]
    if by_session and session_id is None:
        total = await tx.one(SUM_OF_VAULT, **query)
        after_day, after_model, after_session = after or ("", "", "")
        page |= {"after_session_id": after_session}
        page |= ({"after_day": after_day} if by_day else {}) | ({"after_model": after_model} if by_model else {})
        if by_day and by_model:
            del page["page_size"]
            rows = await _list_by_day_model_and_session(tx, page_size=page_size, **page)
        elif by_day:
            rows = await tx.all(LIST_BY_DAY_AND_SESSION, **page)
        else:
            rows = await tx.all(LIST_BY_MODEL_AND_SESSION if by_model else LIST_BY_SESSION, **page)
    else:
        place: tuple[SqlValue, ...] = after or (None, None)
        page |= {"by_day": by_day, "by_model": by_model, "after_day": place[0], "after_model": place[1]}
        if session_id is None:
            total = await tx.one(SUM_OF_VAULT, **query)
            rows = await tx.all(LIST_OF_VAULT, **page)
        else:
            total = await tx.one(SUM_OF_SESSION, session_id=session_id, **query)
            shown = session_id if by_session else ""
            rows = await tx.all(LIST_OF_SESSION, session_id=session_id, shown_session_id=shown, **page)
    shown_rows = tuple(map(_usage_row, rows[:page_size]))
    last = shown_rows[-1] if len(rows) > page_size else None
    next_after = None if last is None else (last.day, last.model, last.session_id)
    return Page(shown_rows, next_after), UsageRow("", "", "", Usage(), 0) if total is None else _usage_row(total)


async def _list_by_day_model_and_session(
    tx: Transaction, *, page_size: int, after_session_id: SqlValue, **page: SqlValue
) -> list[Row]:
    """Returns the rows of a page. Each day and model has an order of sessions in an index."""
    rows: list[Row] = []
    for group in await tx.all(LIST_DAYS_AND_MODELS, **page):
        begun = (group.day, group.model) == (page["after_day"], page["after_model"])
        rows += await tx.all(
            LIST_OF_DAY_AND_MODEL,
            day=group.day,
            model=group.model,
            after_session_id=after_session_id if begun else "",
            limit=page_size + 1 - len(rows),
        )
        if len(rows) > page_size:
            break
    return rows
