"""Guarantees that hold while any number of operations run concurrently."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from metamorphd.chain import Head
from metamorphd.errors import BranchBusy, BudgetExceeded, DomainError, MessageDeleted, TooManyTurns
from metamorphd.models.caller import Scope
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.turn import Turn
from metamorphd.models.vault import Budget, SubjectBudgets
from metamorphd.store.budgets import get_budgets
from metamorphd.store.database import Database, Row, SqlValue, Transaction
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.messages import delete_message, list_messages
from metamorphd.store.turns.create import create_regeneration, create_turn
from metamorphd.store.turns.events import LOCK_TURN
from metamorphd.store.turns.read import list_events
from metamorphd.store.vaults import LOCK_VAULT, update_vault_limits

from tests.support.rows import ACME, CLOCK, TERMS, append, finish, new_message, new_session, new_turn, stored_message

T = TypeVar("T")
LIMIT = 10_000
BUDGET = Budget(tokens_per_day=LIMIT)


async def at_once(calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[DomainError]]:
    """Returns the results and the refusals of calls that run at the same time."""
    results: list[T] = []
    refusals: list[DomainError] = []
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, DomainError):
            refusals.append(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            results.append(outcome)
    return results, refusals


async def regenerate(database: Database, turn: Turn) -> Turn:
    return await database.write(
        create_regeneration,
        ACME,
        turn_id=CLOCK.new_id("turn"),
        user_message_id=turn.user_message_id,
        options=GenerationOptions(),
        labels={},
        terms=TERMS,
        request=None,
        now=CLOCK.now(),
    )


@pytest.mark.parametrize(
    ("budget", "subject_budgets"),
    [
        (BUDGET, SubjectBudgets()),
        (Budget(), SubjectBudgets(default_user=BUDGET)),
        (Budget(), SubjectBudgets(labels={"team=web": BUDGET})),
    ],
    ids=["vault", "user", "label"],
)
async def test_a_budget_is_exceeded_by_less_than_one_reservation(
    database: Database, budget: Budget, subject_budgets: SubjectBudgets
) -> None:
    await database.write(update_vault_limits, ACME, budget=budget, subject_budgets=subject_budgets, now=1)
    sessions = [await new_session(database, labels={"team": "web"}) for _ in range(40)]
    turns, refusals = await at_once(new_turn(database, session.session_id) for session in sessions)
    assert {type(refusal) for refusal in refusals} == {BudgetExceeded}
    (status,) = await database.read(get_budgets, ACME, user_id="alice", labels=["team=web"], now=CLOCK.now())
    reservation = status.reserved / len(turns)
    assert LIMIT <= status.reserved < LIMIT + reservation


async def test_no_more_turns_run_than_are_allowed(database: Database) -> None:
    terms = replace(TERMS, max_running_turns=5)
    sessions = [await new_session(database) for _ in range(30)]
    turns, refusals = await at_once(new_turn(database, session.session_id, terms=terms) for session in sessions)
    assert len(turns) == 5
    assert {type(refusal) for refusal in refusals} == {TooManyTurns}


async def test_one_turn_runs_on_a_branch(database: Database) -> None:
    session = await new_session(database)
    first = await new_turn(database, session.session_id)
    await finish(database, first)
    turns, refusals = await at_once(new_turn(database, session.session_id) for _ in range(20))
    assert len(turns) == 1
    assert {type(refusal) for refusal in refusals} == {BranchBusy}
    await finish(database, turns[0])
    turns, refusals = await at_once(regenerate(database, first) for _ in range(20))
    assert len(turns) == 1
    assert {type(refusal) for refusal in refusals} == {BranchBusy}


async def test_messages_of_a_session_have_each_their_place(database: Database) -> None:
    session = (await new_session(database)).session_id
    stored, _ = await at_once(stored_message(database, session, str(number)) for number in range(30))
    query: dict[str, Any] = {"session_id": session, "leaf_message_id": None, "all_branches": True, "after": None}
    page = await database.read(list_messages, ACME, newest_first=False, page_size=100, max_size=10**9, **query)
    assert {message.message_id for message in page.items} == {message.message_id for message in stored}


async def test_a_request_id_starts_one_turn(database: Database) -> None:
    session = await new_session(database)
    key = IdempotencyKey("SendMessage", "one", b"body")
    turns, refusals = await at_once(new_turn(database, session.session_id, request=key) for _ in range(20))
    assert refusals == []
    assert len({turn.turn_id for turn in turns}) == 1


async def test_a_message_is_not_deleted_while_it_is_being_answered(database: Database) -> None:
    for _ in range(10):
        turn = await new_turn(database, (await new_session(database)).session_id)
        await finish(database, turn)
        deleting = database.write(delete_message, ACME, message_id=turn.user_message_id, now=CLOCK.now())
        results, refusals = await at_once([deleting, regenerate(database, turn)])
        assert len(results) == 1
        assert type(refusals[0]) in {BranchBusy, MessageDeleted}


async def test_no_event_follows_the_end_of_a_turn(database: Database) -> None:
    for _ in range(10):
        turn = await new_turn(database, (await new_session(database)).session_id)
        await append(database, turn, "a")
        await at_once([append(database, turn, "b", first=3), finish(database, turn)])
        _, events = await database.read(
            list_events, ACME, turn_id=turn.turn_id, after_sequence=0, limit=100, max_characters=10**6
        )
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))


class Recorded(Transaction):
    """A transaction that notes its statements."""

    head: Head | None = None

    def __init__(self, tx: Transaction, statements: list[str]) -> None:
        self._inner = tx
        self._statements = statements
        self.scope = tx.scope
        self.chain = tx.chain

    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        self._statements.append(sql)
        return await self._inner.one(sql, **parameters)

    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        self._statements.append(sql)
        return await self._inner.all(sql, **parameters)

    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        self._statements.append(sql)
        return await self._inner.run(sql, **parameters)


@pytest.fixture
def recorded(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the list that the statements of each write are added to."""
    statements: list[str] = []
    write = database.write

    async def recording(operation: Callable[..., Any], scope: Scope, /, *args: Any, **kwargs: Any) -> Any:
        async def run(tx: Transaction) -> Any:
            return await operation(Recorded(tx, statements), *args, **kwargs)

        return await write(run, scope)

    monkeypatch.setattr(database, "write", recording)
    return statements


async def test_what_starts_turns_or_deletes_messages_begins_with_the_vaults_row(
    database: Database, recorded: list[str]
) -> None:
    session = await new_session(database)
    recorded.clear()
    turn = await new_turn(database, session.session_id)
    assert recorded[0] == LOCK_VAULT, create_turn
    await finish(database, turn)
    recorded.clear()
    await regenerate(database, turn)
    assert recorded[0] == LOCK_VAULT, create_regeneration
    message = await stored_message(database, session.session_id)
    recorded.clear()
    await database.write(delete_message, ACME, message_id=message.message_id, now=CLOCK.now())
    assert recorded[0] == LOCK_VAULT, delete_message


async def test_what_appends_events_begins_with_the_turns_row(database: Database, recorded: list[str]) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id, message=new_message(session.session_id))
    recorded.clear()
    await append(database, turn, "a")
    assert recorded[0] == LOCK_TURN
