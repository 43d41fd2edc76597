"""Part (u): what labels and budgets cost the commits of a turn, what usage costs in a vault with a million rows of it,
and what another vault notices of one that makes up users and labels."""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metamorphd.clock import beginning, day_of
from metamorphd.models.caller import Scope
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.turn import Turn, TurnStatus
from metamorphd.models.usage import SubjectKind, Usage
from metamorphd.models.vault import Budget, SubjectBudgets
from metamorphd.store.sessions import delete_session
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.subject_usage import MOST_LABELS_A_DAY
from metamorphd.store.turns.create import create_turn
from metamorphd.store.turns.finish import finish_turn
from metamorphd.store.usage_lists import list_usage
from metamorphd.store.vaults import update_vault_limits

from bench.figure import Figure
from bench.usage_rows import DAYS, fill, subjects
from tests.support.garbage import frozen
from tests.support.rows import CLOCK, TERMS, new_message, new_session, scope_of

STEPS = 4
# A p99 is that of the thirtieth longest: one pause of the machine makes none.
ROUNDS = 3_000
WARM_UP_ROUNDS = 20
ROWS = 1_000_000
LABELS = {f"label-{number}": "value" for number in range(8)}
# Beyond every turn that is measured.
GENEROUS = Budget(tokens_per_day=10**15, tokens_per_month=10**15, cost_usd_nanos_per_month=10**18)
MOST_RATIO = 1.5
NEIGHBOURS = 16
# Neighbours take turns too, after so many turns of theirs, because a minute may differ from the one before.
NEIGHBOUR_TURNS, NEIGHBOUR_BLOCK = 12_000, 1_000

Times = Sequence[float]


@dataclass(frozen=True)
class Load:
    """Turns of a vault, with labels, and how much usage it has before."""

    vault_id: str
    labels: Mapping[str, str]


PLAIN, LABELLED, LIMITED = Load("plain", {}), Load("labelled", LABELS), Load("limited", LABELS)
SMALL, LARGE = Load("small", LABELS), Load("large", LABELS)
QUIET = Load("quiet", {})
CALM, NOISY = "calm", "noisy"


class Budgets:
    """Measures operations of the store, one at a time and sides in turns, in a database of its own."""

    def __init__(
        self,
        *,
        step: Callable[[str], None],
        rounds: int = ROUNDS,
        rows: int = ROWS,
        neighbour_turns: int = NEIGHBOUR_TURNS,
    ) -> None:
        self._step = step
        self._rounds = rounds
        self._rows = rows
        self._neighbour_turns = neighbour_turns

    def figures(self) -> Iterator[Figure]:
        """Yields the figures."""
        with tempfile.TemporaryDirectory() as directory:
            yield from asyncio.run(self._measured(Path(directory) / "metamorph.db"))

    async def _measured(self, file: Path) -> list[Figure]:
        async with SqliteDatabase(path=file, synchronous="FULL") as database:
            budgets = SubjectBudgets(default_user=GENEROUS, labels={f"{key}={LABELS[key]}": GENEROUS for key in LABELS})
            for load in (LIMITED, SMALL, LARGE):
                await database.write(
                    update_vault_limits, scope_of(load.vault_id), budget=GENEROUS, subject_budgets=budgets, now=1
                )
        self._step(f"a vault with {self._rows:,} rows of usage")
        await asyncio.to_thread(fill, file, {SMALL.vault_id: 10 * DAYS, LARGE.vault_id: self._rows})
        async with SqliteDatabase(path=file, synchronous="FULL") as database:
            with frozen():
                figures = await self._commits(database)
                figures += await self._sizes(database)
                return figures + await self._neighbour(database, file)

    async def _commits(self, database: SqliteDatabase) -> list[Figure]:
        """Measures what 8 labels add to the commits of a turn, and what budgets of all of them add."""
        self._step("turns with labels and budgets")
        loads = (PLAIN, LABELLED, LIMITED)
        times = await self._in_turns({load.vault_id: _turns(database, load) for load in loads})
        figures = []
        for what in ("start", "end"):
            plain, labelled, limited = (times[load.vault_id][what] for load in loads)
            for name, ours in (("8 labels", labelled), ("8 labels and budgets of all", limited)):
                figures.append(Figure(f"(u) {what} of a turn with {name}, against none", *_compared(ours, plain)))
        return figures

    async def _sizes(self, database: SqliteDatabase) -> list[Figure]:
        """Measures what calls cost in a vault with a million rows of usage."""
        self._step("usage by user and label")
        times = await self._in_turns({load.vault_id: _calls(database, load) for load in (SMALL, LARGE)})
        figures = []
        for what, ours in times[LARGE.vault_id].items():
            texts = _compared(ours, times[SMALL.vault_id][what])
            ratio = _at(ours, 0.99) / _at(times[SMALL.vault_id][what], 0.99)
            name = f"(u) {what} in a vault with {self._rows:,} rows of usage, against {10 * DAYS}"
            figures.append(Figure(name, *texts, f"≤ {MOST_RATIO} at p99", ratio <= MOST_RATIO))
        return figures

    async def _neighbour(self, database: SqliteDatabase, file: Path) -> list[Figure]:
        """Measures a vault beside one each of whose turns has a new user and 8 new labels, and what that leaves."""
        self._step("neighbours that make up users and labels, and that do not")
        times: dict[str, dict[str, list[float]]] = {vault: defaultdict(list) for vault in (CALM, NOISY)}
        for first in range(0, self._neighbour_turns, NEIGHBOUR_BLOCK):
            numbers = range(first, min(first + NEIGHBOUR_BLOCK, self._neighbour_turns))
            for vault, taken in times.items():
                for what, seconds in (await _beside(database, vault, iter(numbers))).items():
                    taken[what] += seconds
        plain, random = times.values()
        figures = []
        for what, ours in random.items():
            ratio = _at(ours, 0.99) / _at(plain[what], 0.99)
            name = f"(u) {what} of a turn beside {NEIGHBOURS} senders with random users and labels, against without"
            figures.append(Figure(name, *_compared(ours, plain[what]), f"≤ {MOST_RATIO} at p99", ratio <= MOST_RATIO))
        labels, users = await asyncio.to_thread(subjects, file, NOISY)
        most = MOST_LABELS_A_DAY + 1
        name = f"(u) rows of labels after turns with {8 * self._neighbour_turns:,} different ones"
        figures.append(Figure(name, f"{labels:,}", target=f"≤ {most:,} a day", met=labels <= 2 * most))
        figures.append(Figure(f"(u) rows of users after turns of {self._neighbour_turns:,}", f"{users:,}"))
        return figures

    async def _in_turns(
        self, sides: Mapping[str, Callable[[], Awaitable[Mapping[str, float]]]]
    ) -> dict[str, dict[str, list[float]]]:
        """Returns the seconds of each side by what they are of; the sides take turns, each once a round."""
        times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in sides}
        for number in range(-WARM_UP_ROUNDS, self._rounds):
            # Now from the first, now from the last, so that none always follows the same one.
            for name, side in list(sides.items())[:: 1 if number % 2 else -1]:
                for what, seconds in (await side()).items():
                    if number >= 0:
                        times[name][what].append(seconds)
        return times


def _turns(database: SqliteDatabase, load: Load) -> Callable[[], Awaitable[Mapping[str, float]]]:
    """Returns what starts and ends a turn in a new session, and returns the seconds of both commits."""
    scope = scope_of(load.vault_id)

    async def turn() -> Mapping[str, float]:
        session = await new_session(database, scope)
        begun = time.perf_counter()
        started = await _start(database, scope, session.session_id, load.labels)
        running = time.perf_counter()
        await _end(database, scope, started)
        return {"start": running - begun, "end": time.perf_counter() - running}

    return turn


async def _start(database: SqliteDatabase, scope: Scope, session_id: str, labels: Mapping[str, str]) -> Turn:
    return await database.write(
        create_turn,
        scope,
        message=new_message(session_id, "word " * 40, creator=scope.actor.user_id),
        uploads=(),
        parent=None,
        options=GenerationOptions(),
        labels=labels,
        terms=TERMS,
        request=None,
    )


async def _end(database: SqliteDatabase, scope: Scope, turn: Turn) -> None:
    await database.write(
        finish_turn,
        scope,
        turn=turn,
        events=(),
        closed={},
        status=TurnStatus.COMPLETED,
        stop_reason=None,
        usage=Usage(100, 200, 0, 0, 3_000),
        model_calls=1,
        error=None,
        reply_message_id=CLOCK.new_id("msg"),
        now=CLOCK.now(),
    )


def _calls(database: SqliteDatabase, load: Load) -> Callable[[], Awaitable[Mapping[str, float]]]:
    """Returns what starts and ends a turn and reads usage, and returns the seconds of each."""
    turn, scope = _turns(database, load), scope_of(load.vault_id)
    today = day_of(CLOCK.now())
    first = day_of(beginning(today) - DAYS * 86_400_000_000)

    async def usage(kind: SubjectKind, *, by_day: bool) -> float:
        begun = time.perf_counter()
        await database.read(
            list_usage,
            scope,
            start_day=first,
            end_day=today,
            model=None,
            kind=kind,
            subject=None,
            by_day=by_day,
            by_model=False,
            by_subject=True,
            after=None,
            page_size=10,
        )
        return time.perf_counter() - begun

    async def calls() -> Mapping[str, float]:
        times = {f"{what} of a turn": seconds for what, seconds in (await turn()).items()}
        times["GetUsage by user"] = await usage(SubjectKind.USER, by_day=False)
        times["GetUsage by day and label"] = await usage(SubjectKind.LABEL, by_day=True)
        return times

    return calls


async def _beside(database: SqliteDatabase, vault_id: str, numbers: Iterator[int]) -> dict[str, list[float]]:
    """Returns the seconds of turns of another vault while `vault_id` starts and ends its own."""
    noise = [asyncio.create_task(_noise(database, vault_id, numbers)) for _ in range(NEIGHBOURS)]
    times: dict[str, list[float]] = defaultdict(list)
    turn = _turns(database, QUIET)
    while not all(task.done() for task in noise):
        for what, seconds in (await turn()).items():
            times[what].append(seconds)
    await asyncio.gather(*noise)
    return times


async def _noise(database: SqliteDatabase, vault_id: str, numbers: Iterator[int]) -> None:
    """Runs turns of a vault and deletes their sessions. In the noisy one each has a new user and 8 new labels."""
    for number in numbers:
        noisy = vault_id == NOISY
        scope = scope_of(vault_id, f"user-{number}" if noisy else "user")
        session = await new_session(database, scope)
        labels = {f"l{number}-{place}": "x" for place in range(8)} if noisy else {}
        await _end(database, scope, await _start(database, scope, session.session_id, labels))
        await database.write(delete_session, scope, session_id=session.session_id, etag="", now=CLOCK.now())


def _at(times: Times, share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _compared(ours: Times, other: Times) -> tuple[str, str, str]:
    """Returns the texts of both sides, and the ratio of their medians and of their p99."""
    here, there = (f"p50 {1e3 * _at(times, 0.5):.2f}, p99 {1e3 * _at(times, 0.99):.2f} ms" for times in (ours, other))
    middle, most = (_at(ours, share) / _at(other, share) for share in (0.5, 0.99))
    return here, there, f"{middle:.2f}, {most:.2f}"
