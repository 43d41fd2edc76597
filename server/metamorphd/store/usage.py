"""The usage of turns, by day, session and model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    cache_write_tokens, cost_usd_nanos, estimated, turns)
VALUES (:vault_id, :day, :session_id, :model, :input_tokens, :output_tokens, :cache_read_tokens,
    :cache_write_tokens, :cost_usd_nanos, :estimated, :turns)
ON CONFLICT (vault_id, day, session_id, model) DO UPDATE SET
    input_tokens = usage.input_tokens + excluded.input_tokens,
    output_tokens = usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = usage.cache_write_tokens + excluded.cache_write_tokens,
    cost_usd_nanos = usage.cost_usd_nanos + excluded.cost_usd_nanos,
    estimated = usage.estimated | excluded.estimated,
    turns = usage.turns + excluded.turns
"""
COUNT_DAILY_USAGE = """
INSERT INTO daily_usage (vault_id, day, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    cost_usd_nanos, estimated, turns)
VALUES (:vault_id, :day, :model, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens,
    :cost_usd_nanos, :estimated, :turns)
ON CONFLICT (vault_id, day, model) DO UPDATE SET
    input_tokens = daily_usage.input_tokens + excluded.input_tokens,
    output_tokens = daily_usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = daily_usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = daily_usage.cache_write_tokens + excluded.cache_write_tokens,
    cost_usd_nanos = daily_usage.cost_usd_nanos + excluded.cost_usd_nanos,
    estimated = daily_usage.estimated | excluded.estimated,
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
    COALESCE(SUM(cost_usd_nanos), 0) AS cost_usd_nanos, COALESCE(MAX(estimated), 0) AS estimated,
    COALESCE(SUM(turns), 0) AS turns"""
_OF_VAULT = """
FROM daily_usage
WHERE vault_id = :vault_id AND day BETWEEN :start_day AND :end_day AND (:model IS NULL OR model = :model)"""
# Pairs, so that the planner cannot read the days of all sessions.
_OF_SESSION = """
FROM usage
WHERE vault_id = :vault_id
    AND (session_id, day) >= (:session_id, :start_day) AND (session_id, day) <= (:session_id, :end_day)
    AND (:model IS NULL OR model = :model)"""


def _sum(source: str) -> str:
    return f"""
SELECT CAST(:shown_day AS TEXT) AS day, CAST(:shown_model AS TEXT) AS model,
    CAST(:shown_session_id AS TEXT) AS session_id, {_SUMS} {source}"""


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


SUM_OF_VAULT, SUM_OF_SESSION = _sum(_OF_VAULT), _sum(_OF_SESSION)
LIST_OF_VAULT, LIST_OF_SESSION = _page(_OF_VAULT, "''"), _page(_OF_SESSION, ":shown_session_id")
# IDs are ASCII.
ABOVE_IDS = "~"

_NOTHING_SHOWN: dict[str, SqlValue] = {"shown_day": "", "shown_model": "", "shown_session_id": ""}
LIST_DAYS_AND_MODELS = """
SELECT day, model FROM daily_usage
WHERE vault_id = :vault_id AND day BETWEEN :start_day AND :end_day AND (:model IS NULL OR model = :model)
ORDER BY day, model
"""
LIST_SESSIONS_OF_DAY_AND_MODEL = """
SELECT session_id FROM usage
WHERE vault_id = :vault_id AND day = :day AND model = :model
    AND session_id > :after_session_id AND session_id <= :last_session_id
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


async def count_deleted_usage(tx: Transaction, *, turn: Turn, usage: Usage, now: int) -> bool:
    """Adds what a turn has cost that was deleted while it ran, and returns whether it was.

    One that is still there was counted when it ended.
    """
    if await tx.one(HAS_TURN, turn_id=turn.turn_id) is not None:
        return False
    await count_usage(tx, session_id=turn.session_id, model=turn.model, usage=usage, now=now)
    return True


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
    query: dict[str, SqlValue] = {"start_day": start_day.isoformat(), "end_day": end_day.isoformat(), "model": model}
    rows: list[Row]
    if by_session and session_id is None:
        total = await tx.one(SUM_OF_VAULT, **_NOTHING_SHOWN, **query)
        rows = await _list_by_session(
            tx, query=query, by_day=by_day, by_model=by_model, after=after or ("", "", ""), limit=page_size + 1
        )
    else:
        place: tuple[SqlValue, ...] = after or (None, None)
        page: dict[str, SqlValue] = {"page_size": page_size, "by_day": by_day, "by_model": by_model, **query}
        page |= {"after_day": place[0], "after_model": place[1]}
        if session_id is None:
            total = await tx.one(SUM_OF_VAULT, **_NOTHING_SHOWN, **query)
            rows = await tx.all(LIST_OF_VAULT, **page)
        else:
            total = await tx.one(SUM_OF_SESSION, session_id=session_id, **_NOTHING_SHOWN, **query)
            shown = session_id if by_session else ""
            rows = await tx.all(LIST_OF_SESSION, session_id=session_id, shown_session_id=shown, **page)
    shown_rows = tuple(map(_usage_row, rows[:page_size]))
    last = shown_rows[-1] if len(rows) > page_size else None
    next_after = None if last is None else (last.day, last.model, last.session_id)
    return Page(shown_rows, next_after), UsageRow("", "", "", Usage(), 0) if total is None else _usage_row(total)


async def _list_by_session(
    tx: Transaction,
    *,
    query: Mapping[str, SqlValue],
    by_day: bool,
    by_model: bool,
    after: tuple[int | str, ...],
    limit: int,
) -> list[Row]:
    """Returns the first rows after a place. What it reads is bounded by the days asked for, not by all sessions."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for each in await tx.all(LIST_DAYS_AND_MODELS, **query):
        groups[each.day if by_day else "", each.model if by_model else ""].append(each)
    rows: list[Row] = []
    for (day, model), members in sorted(groups.items()):
        if (day, model) < after[:2] or len(rows) == limit:
            continue
        begun = after[2] if (day, model) == after[:2] else ""
        for session_id in await _list_sessions(tx, members, after=str(begun), limit=limit - len(rows)):
            days = {"start_day": day, "end_day": day} if day else {}
            row = await tx.one(
                SUM_OF_SESSION,
                **{**query, **days, "model": model or query["model"]},
                session_id=session_id,
                shown_day=day,
                shown_model=model,
                shown_session_id=session_id,
            )
            rows += [] if row is None else [row]
    return rows


async def _list_sessions(tx: Transaction, members: Sequence[Row], *, after: str, limit: int) -> list[str]:
    """Returns the first sessions after another one that were used on some days, with a model each."""
    found: list[str] = []
    for member in members:
        # Sessions behind those that were found on other days are of a later page.
        last = found[-1] if len(found) == limit else ABOVE_IDS
        rows = await tx.all(
            LIST_SESSIONS_OF_DAY_AND_MODEL,
            day=member.day,
            model=member.model,
            after_session_id=after,
            last_session_id=last,
            limit=limit,
        )
        found = sorted({*found, *(row.session_id for row in rows)})[:limit]
    return found
