"""The usage of turns by user and by label: docs/decisions/0047-usage-by-user-and-label.md."""

from collections.abc import Mapping
from dataclasses import asdict

from metamorphd.models.usage import SubjectKind, Usage
from metamorphd.store.database import Transaction
from metamorphd.store.labels import label_names
from metamorphd.store.subject_budgets import budgets_of_labels

COUNT_SUBJECT_USAGE = """
INSERT INTO subject_usage (vault_id, kind, subject, day, model, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, cost_usd_nanos, estimated, turns, imported)
VALUES (:vault_id, :kind, :subject, :day, :model, :input_tokens, :output_tokens, :cache_read_tokens,
    :cache_write_tokens, :cost_usd_nanos, :estimated, :turns, :imported)
ON CONFLICT (vault_id, kind, subject, day, model) DO UPDATE SET
    input_tokens = subject_usage.input_tokens + excluded.input_tokens,
    output_tokens = subject_usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = subject_usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = subject_usage.cache_write_tokens + excluded.cache_write_tokens,
    cost_usd_nanos = subject_usage.cost_usd_nanos + excluded.cost_usd_nanos,
    estimated = subject_usage.estimated | excluded.estimated,
    turns = subject_usage.turns + excluded.turns
"""
HAS_SUBJECT_USAGE = """
SELECT day FROM subject_usage
WHERE vault_id = :vault_id AND kind = :kind AND subject = :subject AND day = :day AND model = :model
"""
COUNT_SUBJECTS = """
SELECT COUNT(*) AS subjects FROM (
    SELECT subject FROM subject_usage
    WHERE vault_id = :vault_id AND kind = :kind AND day = :day
    LIMIT :limit
) AS counted
"""
# Pairs of a label and a model that have a row of their own, per day: labels are made up by callers, rows stay.
MOST_LABELS_A_DAY = 1000
# No label has this name, which lacks a value.
OTHER_LABELS = "*"


async def count_subject_usage(
    tx: Transaction, *, day: str, model: str, user_id: str, labels: Mapping[str, str], usage: Usage, turns: int
) -> None:
    """Adds what a turn has cost to its user's day and to that of each of its labels.

    Labels without a budget that are new on a day that has MOST_LABELS_A_DAY are counted together, as OTHER_LABELS, each
    turn once.
    """
    counted = {"day": day, "model": model, "turns": turns, "imported": False, **asdict(usage)}
    await tx.run(COUNT_SUBJECT_USAGE, kind=SubjectKind.USER, subject=user_id, **counted)
    for subject in await _counted_labels(tx, label_names(labels), day=day, model=model):
        await tx.run(COUNT_SUBJECT_USAGE, kind=SubjectKind.LABEL, subject=subject, **counted)


async def _counted_labels(tx: Transaction, names: tuple[str, ...], *, day: str, model: str) -> list[str]:
    """Returns the labels that a turn's usage is added to, one of which may be OTHER_LABELS."""
    kind = SubjectKind.LABEL
    counted: list[str] = []
    new: list[str] = []
    for name in names:
        known = await tx.one(HAS_SUBJECT_USAGE, kind=kind, subject=name, day=day, model=model)
        (new if known is None else counted).append(name)
    if not new:
        return counted
    row = await tx.one(COUNT_SUBJECTS, kind=kind, day=day, limit=MOST_LABELS_A_DAY)
    room = MOST_LABELS_A_DAY - (0 if row is None else row.subjects)
    if room >= len(new):
        return counted + new
    limited = await budgets_of_labels(tx, labels=new)
    others = [name for name in new if name not in limited]
    room = max(0, room)
    return counted + list(limited) + others[:room] + ([OTHER_LABELS] if len(others) > room else [])
