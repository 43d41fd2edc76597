"""Faults of turns."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any

from metamorphd.chat.engine import TurnEngine
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.edge.grpc.health import Health
from metamorphd.errors import UpstreamInterrupted
from metamorphd.llm.claude import Claude
from metamorphd.models.caller import Scope
from metamorphd.models.turn import TurnEvent, TurnFinished
from metamorphd.store.database import Operation
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.writer import Job, Writer
from metamorphd.store.turns import create

from harness.mutants import Patch, mutant

# Figures that show several of them.
LOST = "acknowledged messages lost"
UNREPLAYABLE = "replays that differ from what was seen"
REPEATED = "turns beyond one per request_id"
ENDLESS = "turns without a gapless sequence and exactly one end"
RETRIED = "calls to the model repeated after its first event"
WAITING = "followers that never saw the end"
LATE_SECONDS = 0.05
LATE_WAIT_SECONDS = 0.001


@mutant(
    "answered-before-commit",
    harness="crash",
    shown_by={
        LOST,
        UNREPLAYABLE,
        ENDLESS,
    },
    rounds=30,
)
def _answered_before_commit(patch: Patch) -> None:
    commit = Writer._commit

    def committing(self: Writer, jobs: Any, *, isolated: bool) -> bool:
        loop = self._loop
        ran = []

        def noting() -> Iterator[Job]:
            for job in jobs:
                ran.append(job)
                yield job

        class Early:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def execute(self, sql: str, *arguments: Any) -> Any:
                if sql == "COMMIT":
                    for job in ran:
                        loop.call_soon_threadsafe(job.answer)
                    time.sleep(LATE_SECONDS)
                return connection.execute(sql, *arguments)

        connection, self.connection = self.connection, Early()  # type: ignore[assignment]
        try:
            return commit(self, noting(), isolated=isolated)
        finally:
            self.connection = connection

    patch(Writer, "_commit", committing)


@mutant(
    "published-before-commit",
    harness="crash",
    shown_by={UNREPLAYABLE, ENDLESS},
    rounds=30,
)
def _published_before_commit(patch: Patch) -> None:
    write = SqliteDatabase.write
    last: dict[str, asyncio.Task[Any]] = {}

    async def later(before: asyncio.Task[Any] | None, writing: Callable[[], Any]) -> Any:
        if before is not None:
            await asyncio.wait({before})
        await asyncio.sleep(LATE_SECONDS)
        return await writing()

    async def early(self: SqliteDatabase, operation: Operation[..., Any], scope: Scope, /, *a: Any, **kw: Any) -> Any:
        writing = partial(write, self, operation, scope, *a, **kw)
        match operation.__name__:
            case "append_events":
                (events,) = kw.values()
                turn_id = events[0].turn_id
                last[turn_id] = asyncio.create_task(later(last.get(turn_id), writing))
                return None
            case "finish_turn":
                return await later(last.pop(kw["turn"].turn_id, None), writing)
        return await writing()

    patch(SqliteDatabase, "write", early)


@mutant("request-id-forgotten", harness="crash", shown_by={REPEATED}, rounds=30)
def _request_id_forgotten(patch: Patch) -> None:
    async def forget(tx: Any, *, request: Any, resource_id: str, now: int) -> str:
        return resource_id

    patch(create, "claim_request", forget)


@mutant("running-turns-left", harness="crash", shown_by={ENDLESS}, rounds=2)
def _running_turns_left(patch: Patch) -> None:
    async def leave(self: TurnEngine, *, patience_seconds: float) -> int:
        return 0

    patch(TurnEngine, "sweep", leave)


@mutant("wait-begins-late", harness="race", shown_by={WAITING})
def _wait_begins_late(patch: Patch) -> None:
    async def late(self: LiveTurn) -> None:
        await asyncio.sleep(LATE_WAIT_SECONDS)
        await self._changed.wait()

    patch(LiveTurn, "changed", late)


@mutant("live-skips-what-replay-missed", harness="race", shown_by={"followers that missed an event"})
def _live_skips(patch: Patch) -> None:
    after = LiveTurn.after

    def newest(self: LiveTurn, sequence: int) -> list[TurnEvent] | None:
        events = after(self, sequence)
        return events[-1:] if events and sequence else events

    patch(LiveTurn, "after", newest)


@mutant("end-wakes-nobody", harness="race", shown_by={WAITING})
def _end_wakes_nobody(patch: Patch) -> None:
    wake = LiveTurn.wake

    def waking(self: LiveTurn) -> None:
        if not isinstance(self._tail[-1], TurnFinished):
            wake(self)

    patch(LiveTurn, "wake", waking)


@mutant("retries-after-the-first-token", harness="upstream", shown_by={RETRIED})
def _retries_after_the_first_token(patch: Patch) -> None:
    generate = Claude.generate

    async def retrying(self: Claude, prompt: Any) -> AsyncGenerator[Any]:
        try:
            async for event in generate(self, prompt):
                yield event
        except UpstreamInterrupted:
            async for event in generate(self, prompt):
                yield event

    patch(Claude, "generate", retrying)


@mutant("leaks-connections", harness="upstream", shown_by={"upstream connections leaked"})
def _leaks_connections(patch: Patch) -> None:
    generate = Claude.generate
    kept: set[asyncio.Task[None]] = set()

    async def leaking(self: Claude, prompt: Any) -> AsyncGenerator[Any]:
        read: asyncio.Queue[Any] = asyncio.Queue()

        async def pump() -> None:
            try:
                async for event in generate(self, prompt):
                    read.put_nowait(event)
                read.put_nowait(None)
            except Exception as exc:
                read.put_nowait(exc)

        # Never cancelled.
        kept.add(asyncio.create_task(pump()))
        while (event := await read.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    patch(Claude, "generate", leaking)


@mutant("says-it-serves", harness="drain", shown_by={"servers that reported NOT_SERVING"})
def _says_it_serves(patch: Patch) -> None:
    async def silent(self: Health, *_: object) -> None:
        self._state = "draining"

    patch(Health, "__aexit__", silent)


@mutant("turns-are-dropped", harness="drain", shown_by={"turns that could end within the grace, and did not"})
def _turns_are_dropped(patch: Patch) -> None:
    async def drop(self: TurnEngine, *, grace_seconds: float) -> None:
        self._draining = True
        for task in self._tasks:
            task.cancel()

    patch(TurnEngine, "drain", drop)
