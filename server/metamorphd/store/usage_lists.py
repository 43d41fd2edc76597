"""Lists of usage, by day, model, and session, user or label."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date

from metamorphd.models.page import Page
from metamorphd.models.usage import SubjectKind, Usage, UsageRow
from metamorphd.store.codec import decode_usage
from metamorphd.store.database import Row, SqlValue, Transaction

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
    AND (session_id, day) >= (:subject, :start_day) AND (session_id, day) <= (:subject, :end_day)
    AND (:model IS NULL OR model = :model)"""
_OF_SUBJECT = """
FROM subject_usage
WHERE vault_id = :vault_id AND kind = :kind
    AND (subject, day) >= (:subject, :start_day) AND (subject, day) <= (:subject, :end_day)
    AND (:model IS NULL OR model = :model)"""


def _sum(source: str) -> str:
    return f"""
SELECT CAST(:shown_day AS TEXT) AS day, CAST(:shown_model AS TEXT) AS model,
    CAST(:shown_subject AS TEXT) AS subject, {_SUMS} {source}"""


def _page(source: str, subject: str) -> str:
    """Returns a statement for a page of the sums of a few rows: those of a vault or of one subject within some days."""
    return f"""
SELECT CASE WHEN :by_day THEN day ELSE '' END AS day, CASE WHEN :by_model THEN model ELSE '' END AS model,
    {subject} AS subject, {_SUMS}
{source}
    AND (:after_day IS NULL OR (CASE WHEN :by_day THEN day ELSE '' END, CASE WHEN :by_model THEN model ELSE '' END)
        > (:after_day, :after_model))
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT :page_size + 1
"""


SUM_OF_VAULT, SUM_OF_SESSION, SUM_OF_SUBJECT = _sum(_OF_VAULT), _sum(_OF_SESSION), _sum(_OF_SUBJECT)
LIST_OF_VAULT = _page(_OF_VAULT, "''")
LIST_OF_SESSION = _page(_OF_SESSION, ":shown_subject")
LIST_OF_SUBJECT = _page(_OF_SUBJECT, ":shown_subject")
LIST_DAYS_AND_MODELS = """
SELECT day, model FROM daily_usage
WHERE vault_id = :vault_id AND day BETWEEN :start_day AND :end_day AND (:model IS NULL OR model = :model)
ORDER BY day, model
"""
LIST_SESSIONS_OF_DAY_AND_MODEL = """
SELECT session_id AS subject FROM usage
WHERE vault_id = :vault_id AND day = :day AND model = :model
    AND session_id > :after_subject AND session_id <= :last_subject
ORDER BY session_id
LIMIT :limit
"""
LIST_SUBJECTS_OF_DAY_AND_MODEL = """
SELECT subject FROM subject_usage
WHERE vault_id = :vault_id AND kind = :kind AND day = :day AND model = :model
    AND subject > :after_subject AND subject <= :last_subject
ORDER BY subject
LIMIT :limit
"""
# Above every subject: users' IDs may have any characters, at most 256.
ABOVE_ALL = "\U0010ffff" * 257
NOTHING_SHOWN: Mapping[str, SqlValue] = {"shown_day": "", "shown_model": "", "shown_subject": ""}


def _usage_row(row: Row, kind: SubjectKind) -> UsageRow:
    sessions, users, labels = (row.subject if kind is each else "" for each in SubjectKind)
    return UsageRow(row.day, row.model, sessions, decode_usage(row), row.turns, users, labels)


async def list_usage(
    tx: Transaction,
    *,
    start_day: date,
    end_day: date,
    model: str | None,
    kind: SubjectKind,
    subject: str | None,
    by_day: bool,
    by_model: bool,
    by_subject: bool,
    after: tuple[int | str, ...] | None,
    page_size: int,
) -> tuple[Page[UsageRow], UsageRow]:
    """One page of what was used from `start_day` to `end_day`, both included, and the sum of all pages.

    `subject` is the only one of its `kind` to add up. Rows are ordered by day, then model, then subject, as far as
    grouped by them; `after` is (day, model, subject).
    """
    query: dict[str, SqlValue] = {"start_day": start_day.isoformat(), "end_day": end_day.isoformat(), "model": model}
    place: tuple[SqlValue, ...] = after or (None, None)
    page = query | {"page_size": page_size, "by_day": by_day, "by_model": by_model}
    page |= {"after_day": place[0], "after_model": place[1]}
    if subject is not None:
        page |= {"kind": kind, "subject": subject, "shown_subject": subject if by_subject else ""}
        total = await _sum_of(tx, kind, subject=subject, **NOTHING_SHOWN, **query)
        rows = await tx.all(LIST_OF_SESSION if kind is SubjectKind.SESSION else LIST_OF_SUBJECT, **page)
    else:
        total = await tx.one(SUM_OF_VAULT, **NOTHING_SHOWN, **query)
        rows = await (
            _list_by_subject(tx, kind, query=query, by=(by_day, by_model), after=after, limit=page_size + 1)
            if by_subject
            else tx.all(LIST_OF_VAULT, **page)
        )
    shown = tuple(_usage_row(row, kind) for row in rows[:page_size])
    last = rows[page_size - 1] if len(rows) > page_size else None
    next_after = None if last is None else (last.day, last.model, last.subject)
    return Page(shown, next_after), UsageRow("", "", "", Usage(), 0) if total is None else _usage_row(total, kind)


async def _sum_of(tx: Transaction, kind: SubjectKind, **query: SqlValue) -> Row | None:
    """Returns the sum of one subject's usage."""
    return await tx.one(SUM_OF_SESSION if kind is SubjectKind.SESSION else SUM_OF_SUBJECT, kind=kind, **query)


async def _list_by_subject(
    tx: Transaction,
    kind: SubjectKind,
    *,
    query: Mapping[str, SqlValue],
    by: tuple[bool, bool],
    after: tuple[int | str, ...] | None,
    limit: int,
) -> list[Row]:
    """Returns the first rows after a place. What it reads is bounded by the days asked for, not by all subjects."""
    by_day, by_model = by
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for each in await tx.all(LIST_DAYS_AND_MODELS, **query):
        groups[each.day if by_day else "", each.model if by_model else ""].append(each)
    place = after or ("", "", "")
    rows: list[Row] = []
    for group, members in sorted(groups.items()):
        if group < place[:2] or len(rows) == limit:
            continue
        begun = str(place[2]) if group == place[:2] else ""
        day, model = group
        days = {"start_day": day, "end_day": day} if day else {}
        for subject in await _find_subjects(tx, kind, members, after=begun, limit=limit - len(rows)):
            row = await _sum_of(
                tx,
                kind,
                **{**query, **days, "model": model or query["model"]},
                subject=subject,
                shown_day=day,
                shown_model=model,
                shown_subject=subject,
            )
            rows += [] if row is None else [row]
    return rows


async def _find_subjects(
    tx: Transaction, kind: SubjectKind, members: Sequence[Row], *, after: str, limit: int
) -> list[str]:
    """Returns the first subjects after another one that were used on some days, with a model each."""
    found: list[str] = []
    for member in members:
        # Subjects behind those that were found on other days are of a later page.
        last = found[-1] if len(found) == limit else ABOVE_ALL
        rows = await tx.all(
            LIST_SESSIONS_OF_DAY_AND_MODEL if kind is SubjectKind.SESSION else LIST_SUBJECTS_OF_DAY_AND_MODEL,
            kind=kind,
            day=member.day,
            model=member.model,
            after_subject=after,
            last_subject=last,
            limit=limit,
        )
        found = sorted({*found, *(row.subject for row in rows)})[:limit]
    return found
