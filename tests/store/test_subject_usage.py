"""Usage by user and by label in the store."""

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metamorphd.clock import beginning
from metamorphd.models.caller import Scope
from metamorphd.models.turn import Turn
from metamorphd.models.usage import SubjectKind, Usage, UsageRow
from metamorphd.models.vault import Budget, SubjectBudgets
from metamorphd.store import subject_usage
from metamorphd.store.database import Database
from metamorphd.store.erasure_ledger import get_life
from metamorphd.store.session_titles import set_title
from metamorphd.store.sessions import delete_session
from metamorphd.store.usage import count_deleted_usage
from metamorphd.store.usage_lists import list_usage
from metamorphd.store.vaults import update_vault_limits

from tests.support.engines import Engine
from tests.support.rows import ACME, EVIL, finish, new_message, new_session, new_turn

DAYS = [date(2030, 1, 31), date(2030, 2, 1)]
USERS = ["alice", "bob", "\U0010ffff" * 3]
LABELS = ["a", "b", "c"]


@dataclass(frozen=True)
class Ended:
    """A finished turn to store."""

    user: str
    labels: frozenset[str]
    model: str
    day: date
    tokens: int


TURNS = st.lists(
    st.builds(
        Ended,
        user=st.sampled_from(USERS),
        labels=st.frozensets(st.sampled_from(LABELS)),
        model=st.sampled_from(["claude-sonnet-5-5", "claude-haiku-5-5"]),
        day=st.sampled_from(DAYS),
        tokens=st.integers(0, 10**6),
    ),
    max_size=10,
)


async def running(database: Database, user: str = "alice", **labels: str) -> Turn:
    session = await new_session(database)
    return await new_turn(
        database, session.session_id, message=new_message(session.session_id, creator=user), labels=labels
    )


async def ended(database: Database, user: str = "alice", *, day: date = DAYS[0], **labels: str) -> Turn:
    turn = await running(database, user, **labels)
    await finish(database, turn, usage=Usage(1), now=beginning(day))
    return turn


async def listed(database: Database, kind: SubjectKind, scope: Scope = ACME, **query: Any) -> list[UsageRow]:
    """Returns every row, read in pages of two."""
    values: dict[str, Any] = {"start_day": DAYS[0], "end_day": DAYS[-1], "model": None, "kind": kind, "subject": None}
    values |= {"by_day": False, "by_model": False, "by_subject": True}
    rows: list[UsageRow] = []
    after = None
    while True:
        page, _ = await database.read(list_usage, scope, **(values | query), after=after, page_size=2)
        rows += page.items
        after = page.next_after
        if after is None:
            return rows


async def check_sums(engine: Engine, turns: list[Ended], by_day: bool, by_model: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with engine.database(Path(directory)) as database:
            for each in turns:
                session = await new_session(database)
                message = new_message(session.session_id, creator=each.user)
                labels = dict.fromkeys(each.labels, "x")
                turn = await new_turn(database, session.session_id, message=message, labels=labels, model=each.model)
                await finish(database, turn, usage=Usage(each.tokens), now=beginning(each.day))
            users, labels_ = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
            for each in turns:
                group = (each.day.isoformat() if by_day else "", each.model if by_model else "")
                users[*group, each.user] += each.tokens
                labels_.update({(*group, f"{label}=x"): each.tokens for label in each.labels})
            for kind, expected in ((SubjectKind.USER, users), (SubjectKind.LABEL, labels_)):
                rows = await listed(database, kind, by_day=by_day, by_model=by_model)
                found = [((row.day, row.model, row.user_id + row.label), row.usage.input_tokens) for row in rows]
                assert found == sorted(expected.items())


@settings(max_examples=30, deadline=None)
@given(TURNS, st.booleans(), st.booleans())
def test_the_usage_of_a_user_and_of_a_label_is_the_sum_of_their_turns(
    engine: Engine, turns: list[Ended], by_day: bool, by_model: bool
) -> None:
    asyncio.run(check_sums(engine, turns, by_day, by_model))


async def test_one_subject_is_found_among_others(database: Database) -> None:
    await ended(database, "alice", a="1", b="1")
    await ended(database, "bob", a="1")
    await ended(database, "bob", day=DAYS[1], a="2")
    (row,) = await listed(database, SubjectKind.USER, subject="bob")
    assert (row.user_id, row.turns) == ("bob", 2)
    assert [row.day for row in await listed(database, SubjectKind.LABEL, subject="a=1", by_day=True)] == ["2030-01-31"]
    assert await listed(database, SubjectKind.LABEL, EVIL, subject="a=1") == []
    assert await listed(database, SubjectKind.LABEL, EVIL) == []


async def test_labels_beyond_the_first_of_a_day_are_counted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_usage, "MOST_LABELS_A_DAY", 3)
    await ended(database, a="", b="")
    # One more has room, and the others are one row, to which a turn is added once.
    await ended(database, a="", c="", d="", e="")
    await ended(database, e="")
    await ended(database, day=DAYS[1], e="")
    rows = await listed(database, SubjectKind.LABEL, by_day=True)
    assert [(row.day[-2:], row.label, row.turns) for row in rows] == [
        ("31", "*", 2),
        ("31", "a=", 2),
        ("31", "b=", 1),
        ("31", "c=", 1),
        ("01", "e=", 1),
    ]


async def test_a_label_with_a_budget_is_always_counted_by_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_usage, "MOST_LABELS_A_DAY", 1)
    budgets = SubjectBudgets(labels={"limited=": Budget(tokens_per_day=10**9)})
    await database.write(update_vault_limits, ACME, budget=None, subject_budgets=budgets, now=1)
    await ended(database, a="")
    await ended(database, b="", limited="")
    assert [(row.label, row.turns) for row in await listed(database, SubjectKind.LABEL)] == [
        ("*", 1),
        ("a=", 1),
        ("limited=", 1),
    ]


async def test_a_title_counts_towards_the_user_and_the_labels_of_its_turn(database: Database) -> None:
    turn = await ended(database, "bob", team="web")
    life = await database.read(get_life, ACME)
    named: dict[str, Any] = {"turn": turn, "life": life, "title": "t", "model": "m"}
    await database.write(set_title, ACME, usage=Usage(5), now=beginning(DAYS[0]), **named)
    for kind, name in ((SubjectKind.USER, "bob"), (SubjectKind.LABEL, "team=web")):
        (row,) = await listed(database, kind)
        assert (row.user_id + row.label, row.usage.input_tokens, row.turns) == (name, 6, 1)


async def test_a_turn_that_is_deleted_while_it_runs_counts_towards_its_user_and_labels(database: Database) -> None:
    turn = await running(database, "bob", team="web")
    await database.write(delete_session, ACME, session_id=turn.session_id, etag="", now=9)
    deleted: dict[str, Any] = {"turn": turn, "life": await database.read(get_life, ACME)}
    assert await database.write(count_deleted_usage, ACME, usage=Usage(7), now=beginning(DAYS[0]), **deleted)
    for kind, name in ((SubjectKind.USER, "bob"), (SubjectKind.LABEL, "team=web")):
        (row,) = await listed(database, kind)
        assert (row.user_id + row.label, row.usage.input_tokens) == (name, 7)
