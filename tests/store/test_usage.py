"""Usage and budgets in the store."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metamorphd.catalog import FRAME_TOKENS, IMAGE_TOKENS
from metamorphd.clock import beginning, day_of
from metamorphd.errors import BudgetExceeded, ModelNotAccepted
from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope
from metamorphd.models.content import Block, DocumentBlock, ImageBlock, TextBlock
from metamorphd.models.generation import Tool
from metamorphd.models.turn import Turn, TurnStatus
from metamorphd.models.usage import SubjectKind, Usage, UsageRow
from metamorphd.models.vault import Budget, BudgetStatus, SubjectBudgets, VaultChanges
from metamorphd.store.budgets import get_budgets
from metamorphd.store.database import Database
from metamorphd.store.sessions import delete_session
from metamorphd.store.usage_lists import list_usage
from metamorphd.store.vaults import get_vault_limits, update_vault, update_vault_limits

from tests.support.engines import Engine
from tests.support.rows import ACME, EVIL, KEY, TERMS, finish, new_message, new_session, new_turn

DAYS = [date(2030, 1, 31), date(2030, 2, 1), date(2030, 2, 28), date(2030, 3, 1)]
MODELS = [model.model for model in TERMS.catalog.models]
NINE, TEN = Budget(tokens_per_day=9), Budget(tokens_per_day=10)
DAY = 86_400_000_000
NOON = DAY // 2


@dataclass(frozen=True)
class Ended:
    """A finished turn to store."""

    session: int
    model: str
    day: date
    status: TurnStatus
    usage: Usage


def counts(largest: int) -> st.SearchStrategy[int]:
    return st.integers(0, largest)


TURNS = st.lists(
    st.builds(
        Ended,
        session=counts(2),
        model=st.sampled_from(MODELS),
        day=st.sampled_from(DAYS),
        status=st.sampled_from([status for status in TurnStatus if status is not TurnStatus.RUNNING]),
        usage=st.builds(Usage, *[counts(10**6)] * 4, counts(10**12), st.booleans()),
    ),
    max_size=12,
)


async def usage(database: Database, scope: Scope = ACME, **query: Any) -> tuple[tuple[UsageRow, ...], UsageRow]:
    """Returns every row, read in pages of two, and the total."""
    values: dict[str, Any] = {
        "start_day": DAYS[0],
        "end_day": DAYS[-1],
        "model": None,
        "kind": SubjectKind.SESSION,
        "subject": None,
        "by_day": True,
        "by_model": True,
        "by_subject": True,
    }
    rows: list[UsageRow] = []
    after = None
    while True:
        page, total = await database.read(list_usage, scope, **(values | query), after=after, page_size=2)
        rows += page.items
        after = page.next_after
        if after is None:
            return tuple(rows), total


async def stored(database: Database, turns: Sequence[Ended]) -> list[str]:
    sessions = [(await new_session(database)).session_id for _ in range(3)]
    for ended in turns:
        turn = await new_turn(database, sessions[ended.session], model=ended.model)
        await finish(database, turn, status=ended.status, usage=ended.usage, now=beginning(ended.day) + NOON)
    return sessions


def summed(usages: Sequence[Usage]) -> Usage:
    totals = Counter[str]()
    for one in usages:
        totals.update(asdict(one))
    # A sum of usage is estimated if a part of it is.
    counts: dict[str, Any] = dict(totals)
    return Usage(**counts | {"estimated": bool(totals["estimated"])})


async def check_sums(engine: Engine, turns: Sequence[Ended], grouped: tuple[bool, bool, bool]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with engine.database(Path(directory)) as database:
            sessions = await stored(database, turns)
            by_day, by_model, by_session = grouped
            rows, total = await usage(database, by_day=by_day, by_model=by_model, by_subject=by_session)
            expected: dict[tuple[str, str, str], list[Usage]] = {}
            for turn in turns:
                key = (
                    turn.day.isoformat() if by_day else "",
                    turn.model if by_model else "",
                    sessions[turn.session] if by_session else "",
                )
                expected.setdefault(key, []).append(turn.usage)
            assert [(row.day, row.model, row.session_id) for row in rows] == sorted(expected)
            for row in rows:
                parts = expected[row.day, row.model, row.session_id]
                assert (row.usage, row.turns) == (summed(parts), len(parts))
            assert (total.usage, total.turns) == (summed([turn.usage for turn in turns]), len(turns))
            for day in DAYS:
                budget = Budget(tokens_per_day=1, cost_usd_nanos_per_month=1)
                await database.write(update_vault_limits, ACME, budget=budget, now=1)
                tokens, cost = await database.read(get_budgets, ACME, user_id="alice", labels=[], now=beginning(day))
                assert tokens.used == sum(tokens_of(turn.usage) for turn in turns if turn.day == day)
                month = [turn for turn in turns if turn.day.replace(day=1) == day.replace(day=1)]
                assert cost.used == sum(turn.usage.cost_usd_nanos for turn in month)


def tokens_of(usage: Usage) -> int:
    """Returns all tokens, as budgets count them."""
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens


@settings(max_examples=40, deadline=None)
@given(TURNS, st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_usage_in_any_grouping_is_the_sum_of_its_turns(
    engine: Engine, turns: list[Ended], grouped: tuple[bool, bool, bool]
) -> None:
    asyncio.run(check_sums(engine, turns, grouped))


@pytest.mark.parametrize("of_session", [False, True])
async def test_a_page_that_is_full_and_the_last_names_no_next_one(database: Database, of_session: bool) -> None:
    ended = [Ended(0, MODELS[0], day, TurnStatus.COMPLETED, Usage(1, 1, 0, 0, 1)) for day in DAYS[:2]]
    (session_id, *_) = await stored(database, ended)
    for size, has_next in ((1, True), (2, False), (3, False)):
        page, _ = await database.read(
            list_usage,
            ACME,
            start_day=DAYS[0],
            end_day=DAYS[-1],
            model=None,
            kind=SubjectKind.SESSION,
            subject=session_id if of_session else None,
            by_day=True,
            by_model=False,
            by_subject=True,
            after=None,
            page_size=size,
        )
        assert (len(page.items), page.next_after is not None) == (min(size, 2), has_next)


async def test_usage_is_filtered_by_days_model_and_session(database: Database) -> None:
    turns = [
        Ended(number % 3, MODELS[number % 2], DAYS[number % 4], TurnStatus.COMPLETED, Usage(1)) for number in range(12)
    ]
    sessions = await stored(database, turns)
    assert (await usage(database, start_day=DAYS[1], end_day=DAYS[2]))[1].turns == 6
    assert (await usage(database, model=MODELS[0]))[1].turns == 6
    assert (await usage(database, subject=sessions[0]))[1].turns == 4
    assert (await usage(database, subject=sessions[0], model=MODELS[0]))[1].turns == 2
    assert await usage(database, EVIL, subject=sessions[0]) == ((), UsageRow("", "", "", Usage(), 0))


async def test_usage_stays_when_its_session_is_deleted(database: Database) -> None:
    sessions = await stored(database, [Ended(0, MODELS[0], DAYS[0], TurnStatus.FAILED, Usage(7, 1))])
    before = await usage(database)
    await database.write(delete_session, ACME, session_id=sessions[0], etag="", now=9)
    assert await usage(database) == before
    assert before[1].usage == Usage(7, 1)


async def allow(database: Database, *, own: Budget | None = None, operators: Budget | None = None) -> None:
    if own is not None:
        await database.write(update_vault, ACME, changes=VaultChanges(budget=own), etag="", hash_key=KEY, now=1)
    if operators is not None:
        await database.write(update_vault_limits, ACME, budget=operators, now=1)


async def budgets(database: Database, now: int) -> dict[str, BudgetStatus]:
    return {
        status.budget: status for status in await database.read(get_budgets, ACME, user_id="alice", labels=[], now=now)
    }


async def test_without_a_budget_nothing_is_reserved_or_reported(database: Database) -> None:
    await new_turn(database, (await new_session(database)).session_id)
    assert await budgets(database, 1) == {}
    await allow(database, operators=Budget(tokens_per_day=5))
    assert (await budgets(database, 1))["tokens_per_day"].reserved == 0


@pytest.mark.parametrize(
    ("own", "operators", "limit"),
    [(None, 7, 7), (7, None, 7), (5, 7, 5), (7, 5, 5), (0, 5, 0), (5, 0, 0)],
)
async def test_the_lower_of_both_limits_applies(
    database: Database, own: int | None, operators: int | None, limit: int
) -> None:
    await allow(database, own=Budget(tokens_per_month=own), operators=Budget(tokens_per_month=operators))
    statuses = await budgets(database, beginning(date(2030, 12, 31)) + NOON)
    assert list(statuses) == ["tokens_per_month"]
    assert statuses["tokens_per_month"] == BudgetStatus("tokens_per_month", limit, 0, 0, beginning(date(2031, 1, 1)))


@pytest.mark.parametrize(
    ("own", "operators", "limit"),
    [
        (SubjectBudgets(default_user=TEN), SubjectBudgets(), 10),
        (SubjectBudgets(default_user=TEN, users={"alice": NINE}), SubjectBudgets(), 9),
        # A user's own budget is in place of the default, also where it is higher.
        (SubjectBudgets(default_user=NINE, users={"alice": TEN}), SubjectBudgets(), 10),
        (SubjectBudgets(default_user=NINE, users={"alice": Budget()}), SubjectBudgets(), None),
        (SubjectBudgets(default_user=NINE, users={"bob": TEN}), SubjectBudgets(), 9),
        # An operator's default holds beside a vault's exception.
        (SubjectBudgets(users={"alice": TEN}), SubjectBudgets(default_user=NINE), 9),
        (SubjectBudgets(users={"alice": NINE}), SubjectBudgets(default_user=TEN), 9),
        (SubjectBudgets(default_user=NINE), SubjectBudgets(default_user=NINE, users={"alice": TEN}), 9),
    ],
)
async def test_a_user_has_the_lower_of_both_limits_each_its_own_or_the_default(
    database: Database, own: SubjectBudgets, operators: SubjectBudgets, limit: int | None
) -> None:
    changes = VaultChanges(subject_budgets=own)
    await database.write(update_vault, ACME, changes=changes, etag="", hash_key=KEY, now=1)
    await database.write(update_vault_limits, ACME, budget=None, subject_budgets=operators, now=1)
    assert [status.limit for status in (await budgets(database, 1)).values()] == ([] if limit is None else [limit])


async def test_a_turn_reserves_of_its_user_and_of_each_of_its_labels(database: Database) -> None:
    million = Budget(tokens_per_day=10**6)
    labels = {"a=1": million, "a=11": million, "b=": Budget(cost_usd_nanos_per_month=10**15)}
    subjects = SubjectBudgets(default_user=million, labels=labels)
    await database.write(update_vault_limits, ACME, budget=None, subject_budgets=subjects, now=1)

    async def reserved(user_id: str, *labels: str) -> dict[str, int]:
        found = await database.read(get_budgets, ACME, user_id=user_id, labels=labels, now=1)
        return {status.user_id + status.label: status.reserved for status in found}

    session = await new_session(database)
    turn = await new_turn(database, session.session_id, labels={"a": "1", "b": "", "c": "1"})
    first = await reserved("alice", "a=1", "b=", "c=1", "a=11")
    assert first.keys() == {"alice", "a=1", "b=", "a=11"}
    assert first["alice"] == first["a=1"] > 0
    assert (first["b="] > 0, first["a=11"]) == (True, 0)
    other = await new_session(database)
    bobs = new_message(other.session_id, creator="bob")
    await new_turn(database, other.session_id, message=bobs, labels={"a": "11"})
    # Its pair begins like the other.
    assert (await reserved("alice", "a=1", "b=")).items() <= first.items()
    theirs = await reserved("bob", "a=11")
    assert theirs["bob"] == theirs["a=11"] > 0
    await finish(database, turn, usage=Usage(5), now=turn.create_time)
    assert set((await reserved("alice", "a=1", "b=")).values()) == {0}


async def test_an_operator_may_set_and_lift_a_limit_before_the_first_use_of_a_vault(database: Database) -> None:
    await allow(database, operators=Budget(cost_usd_nanos_per_day=0))
    session = await new_session(database)
    with pytest.raises(BudgetExceeded):
        await new_turn(database, session.session_id)
    await allow(database, operators=Budget())
    await new_turn(database, session.session_id)
    assert (await database.read(get_vault_limits, ACME)).budget == Budget()
    assert (await database.read(get_vault_limits, EVIL)).update_time is None


def at(day: date, session_id: str, **fields: Any) -> Any:
    """Returns the fields of a message sent on a day."""
    return replace(new_message(session_id, **fields), create_time=beginning(day) + NOON)


async def sent(database: Database, day: date, **fields: Any) -> Turn:
    session = await new_session(database)
    return await new_turn(database, session.session_id, message=at(day, session.session_id), **fields)


async def test_days_and_months_start_at_midnight_utc(database: Database) -> None:
    await allow(database, own=Budget(tokens_per_day=10, tokens_per_month=15))
    first = await sent(database, DAYS[0])
    await finish(database, first, usage=Usage(10), now=beginning(DAYS[1]) - 1)
    with pytest.raises(BudgetExceeded) as refusal:
        await sent(database, DAYS[0])
    # February: both day and month start again.
    assert refusal.value.metadata == {
        "subject": "vault",
        "budget": "tokens_per_day",
        "limit": "10",
        "reset_time": "2030-02-01T00:00:00Z",
    }
    assert refusal.value.retry_delay == NOON / 1e6
    second = await sent(database, DAYS[1])
    await finish(database, second, usage=Usage(15), now=beginning(DAYS[1]))
    with pytest.raises(BudgetExceeded) as refusal:
        await sent(database, DAYS[1])
    # The budget of the month would still be spent tomorrow.
    assert refusal.value.metadata == {
        "subject": "vault",
        "budget": "tokens_per_month",
        "limit": "15",
        "reset_time": "2030-03-01T00:00:00Z",
    }
    assert [quota.subject for quota in refusal.value.quotas] == ["tokens_per_day", "tokens_per_month"]
    with pytest.raises(BudgetExceeded):
        await sent(database, DAYS[2])
    await sent(database, DAYS[3])


async def test_a_turn_holds_its_reservation_only_while_it_runs(database: Database) -> None:
    await allow(database, own=Budget(tokens_per_day=10, cost_usd_nanos_per_month=10))
    session = await new_session(database, system_prompt="x" * 500)
    turn = await new_turn(database, session.session_id, "y" * 300, max_output_tokens=77)
    now = turn.create_time
    tokens, cost = (await budgets(database, now)).values()
    assert 500 + 300 + 77 + FRAME_TOKENS < tokens.reserved < 500 + 300 + 77 + FRAME_TOKENS + 400
    # Writing to the cache is the most expensive way to read input.
    read = tokens.reserved - 77
    assert cost.reserved == TERMS.catalog.cost(turn.model, Usage(0, 77, cache_write_tokens=read))
    assert (tokens.left, cost.left) == (0, 0)
    with pytest.raises(BudgetExceeded):
        await new_turn(database, (await new_session(database)).session_id)
    await finish(database, turn, usage=Usage(1, 2, 3, 4, 5), status=TurnStatus.FAILED, now=now)
    tokens, cost = (await budgets(database, now)).values()
    assert (tokens.used, tokens.reserved, tokens.left) == (10, 0, 0)
    assert (cost.used, cost.reserved, cost.left) == (5, 0, 5)


async def test_deleting_a_session_releases_its_reservation(database: Database) -> None:
    await allow(database, own=Budget(tokens_per_day=10))
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    assert (await budgets(database, turn.create_time))["tokens_per_day"].reserved > 0
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    assert (await budgets(database, turn.create_time))["tokens_per_day"].reserved == 0


async def reserved(database: Database, *content: Block, **fields: Any) -> int:
    """Returns how many of a day's tokens a turn in a new session reserves."""
    session = await new_session(database)
    message = new_message(session.session_id, content=(TextBlock("a"), *content))
    # Stored under the id that the content refers to. The content also states its size.
    upload = Upload("att_1", "image/png", "00", b"x")
    turn = await new_turn(database, session.session_id, message=message, uploads=[upload], **fields)
    held = (await budgets(database, turn.create_time))["tokens_per_day"].reserved
    await finish(database, turn, now=turn.create_time)
    return held


async def test_a_reservation_covers_the_maximum_possible_usage(database: Database) -> None:
    await allow(database, own=Budget(tokens_per_day=10**9))
    plain = await reserved(database)
    assert await reserved(database, ImageBlock("att_1", "image/png", 9, "00")) > plain + IMAGE_TOKENS
    assert await reserved(database, DocumentBlock("att_1", "application/pdf", 10**5, "00")) > plain + 10**5
    assert await reserved(database, tools=(Tool("t", "d" * 1000, "{}"),)) > plain + 1000
    # Never more than the context and output limits of the model.
    huge = DocumentBlock("att_1", "application/pdf", 2 * 10**7, "00")
    assert await reserved(database, huge, model="claude-sonnet-4-5") == 200_000 + TERMS.max_output_tokens
    generous = replace(TERMS, max_output_tokens=131_072)
    cut = await reserved(database, huge, model="claude-sonnet-4-5", terms=generous)
    assert cut == 200_000 + 64_000
    # Compaction adds a second model call.
    twice = await reserved(database, huge, terms=replace(TERMS, compact_above=150_000))
    assert twice == 2 * (1_000_000 + TERMS.max_output_tokens)
    assert await reserved(database, terms=replace(TERMS, compact_above=150_000)) == plain


async def test_an_unknown_model_is_refused_before_any_check_of_the_session(
    database: Database,
) -> None:
    session = await new_session(database, model="gpt-1")
    with pytest.raises(ModelNotAccepted) as refusal:
        await new_turn(database, session.session_id)
    assert refusal.value.metadata == {"model": "gpt-1"}
    await new_turn(database, session.session_id, model=MODELS[0])
    # The branch is busy too, but waiting would not help: the caller must name another model.
    with pytest.raises(ModelNotAccepted):
        await new_turn(database, session.session_id, model="gpt-2")


async def test_the_day_is_that_of_the_clock_in_utc() -> None:
    assert day_of(beginning(DAYS[1]) - 1) == DAYS[0]
    assert day_of(beginning(DAYS[1])) == DAYS[1]
