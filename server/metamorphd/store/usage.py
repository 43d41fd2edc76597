"""The usage of turns, by day, session and model, and by all else that it is counted by."""

from dataclasses import asdict

from metamorphd.clock import day_of
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage
from metamorphd.store.database import Transaction, concludes
from metamorphd.store.erasure_ledger import get_life
from metamorphd.store.subject_usage import count_subject_usage

COUNT_USAGE = """
INSERT INTO usage (vault_id, day, session_id, model, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, cost_usd_nanos, estimated, turns, imported)
VALUES (:vault_id, :day, :session_id, :model, :input_tokens, :output_tokens, :cache_read_tokens,
    :cache_write_tokens, :cost_usd_nanos, :estimated, :turns, :imported)
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


async def count_turn(tx: Transaction, *, turn: Turn, usage: Usage, now: int) -> None:
    """Adds what a turn has cost to the day of `now`. Once a turn, whatever became of it."""
    await count_usage(tx, turn=turn, model=turn.model, usage=usage, now=now, turns=1)


async def count_usage(tx: Transaction, *, turn: Turn, model: str, usage: Usage, now: int, turns: int) -> None:
    """Adds what a call for a turn has cost to the day of `now`. `turns` is 0 for what is counted beside the turn."""
    day = day_of(now).isoformat()
    counted = {"day": day, "model": model, "turns": turns, **asdict(usage)}
    await tx.run(COUNT_USAGE, session_id=turn.session_id, imported=False, **counted)
    await tx.run(COUNT_DAILY_USAGE, **counted)
    await count_subject_usage(
        tx, day=day, model=model, user_id=turn.creator, labels=turn.labels, usage=usage, turns=turns
    )


@concludes
async def count_deleted_usage(tx: Transaction, *, turn: Turn, life: str | None, usage: Usage, now: int) -> bool:
    """Adds what a turn has cost that was deleted while it ran, and returns whether it was.

    One that is still there was counted when it ended. Nothing is added if the vault has been erased since: `life` is
    that in which the turn began.
    """
    if await get_life(tx) != life:
        return True
    if await tx.one(HAS_TURN, turn_id=turn.turn_id) is not None:
        return False
    await count_turn(tx, turn=turn, usage=usage, now=now)
    return True
