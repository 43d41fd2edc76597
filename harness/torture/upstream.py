"""Provider failures: how each turn ends, what it costs, and that no connection stays open."""

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median

from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.turn_pb2 import Turn, TurnEvent, TurnFinished

from harness.figure import NOT_MEASURED, Figure, tried
from harness.mutants import mutate, patching
from harness.run import Run
from harness.torture.trouble import CANCELLED, COMPLETED, MAX_RETRIES, TURN_SECONDS, Trouble, draw
from tests.support.caller import Caller, text_of
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Reply
from tests.support.serving import Serving, asking
from tests.support.turns import deltas, get_turn

RUNS_AT_A_TIME = 8
CANCELS = 20
# Long enough that a machine that freezes for a moment is not taken for a silent provider.
STALL_SECONDS = 3.0
CLOSE_SECONDS = 1.0
LOOK_SECONDS = 0.002
ENDLESSLY = Reply(("word ",) * 1000, delay=0.005)
RETRIED = "calls to the model repeated after its first event"
MISCOUNTED = "turns with an unexpected number of calls to the model"
LEAKED = "upstream connections leaked"
ENDLESS = "turns without a gapless sequence and exactly one end"
REASON = "turns that ended for another reason"
DELAY = "turns whose retry_delay is not the provider's"
USAGE = "turns whose usage is not what the provider reported"
TEXT = "turns whose text is not what the provider sent"
FAULTS = (RETRIED, MISCOUNTED, LEAKED, ENDLESS, REASON, DELAY, USAGE, TEXT)


class Upstream:
    """A failing provider, and the turns that ask it."""

    def __init__(self, *, seed: int, runs: int, mutant: str) -> None:
        self.faults: list[tuple[str, str]] = []
        self.cancelled: list[float] = []
        self.cancelled_alone: list[float] = []
        self.reasons: Counter[str] = Counter()
        source = random.Random(seed)  # noqa: S311, repeatable
        self._left = [(f"run {number}", draw(source)) for number in range(runs)]
        self._troubles = dict(self._left)
        self._answered: Counter[str] = Counter()
        self._mutant = mutant
        self.api = FakeMessagesApi(self._answer)

    def _answer(self, received: Received) -> Behaviour:
        name = _name(received)
        if name not in self._troubles:
            return ENDLESSLY
        answers = self._troubles[name].answers
        self._answered[name] += 1
        return answers[min(self._answered[name], len(answers)) - 1]

    async def run(self, caller: Caller) -> None:
        """Runs one turn after another until none is left."""
        while self._left and not (self._mutant and self.faults):
            name, trouble = self._left.pop()
            session = await caller.create_session()
            call = caller.start(session.session_id, name)
            events = [await call.next()]
            async with asyncio.TaskGroup() as group:
                if trouble.cancelled_after is not None:
                    group.create_task(self._cancel(caller, name, events[0].turn_id, trouble.cancelled_after))
                events += await call.rest()
            if not await self._closed(name):
                self._fault(LEAKED, name, "")
            self._check(name, trouble, events, await get_turn(caller, events[0].turn_id))

    async def cancels(self, caller: Caller) -> None:
        """Cancels turns while nothing else runs."""
        for number in range(CANCELS):
            call = caller.start((await caller.create_session()).session_id, f"endless {number}")
            events = [await call.next(), await call.next()]
            self.cancelled_alone.append(await self._stop(caller, f"endless {number}", events[0].turn_id))
            await call.rest()
            if self._open(f"endless {number}"):
                self._fault(LEAKED, f"endless {number}", "cancelled")
                return

    async def _cancel(self, caller: Caller, name: str, turn_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._open(name):
            self.cancelled.append(await self._stop(caller, name, turn_id))

    async def _stop(self, caller: Caller, name: str, turn_id: str) -> float:
        """Returns the milliseconds from CancelTurn until the provider's connection closes; infinity if it does not."""
        began = time.monotonic()
        cancelling = caller.chat.CancelTurn(pb.CancelTurnRequest(turn_id=turn_id), metadata=caller.metadata)
        closed = await self._closed(name)
        seconds = time.monotonic() - began
        await cancelling
        return seconds * 1000 if closed else float("inf")

    async def _closed(self, name: str) -> bool:
        """Whether the provider soon sees the connection closed, or has answered."""
        until = time.monotonic() + CLOSE_SECONDS
        while time.monotonic() < until:
            if not self._open(name):
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    def _open(self, name: str) -> bool:
        return any(_name(received) == name for received in self.api.answering)

    def _check(self, name: str, trouble: Trouble, events: list[TurnEvent], turn: Turn) -> None:
        ends = [event.turn_finished for event in events if event.HasField("turn_finished")]
        sequences = [event.sequence for event in events]
        if sequences != list(range(1, turn.last_sequence + 1)) or len(ends) != 1:
            self._fault(ENDLESS, name, f"{sequences} of {turn.last_sequence}, {len(ends)} ends")
            return
        self.reasons["CANCELLED" if ends[0].status == CANCELLED else ends[0].error.reason or "COMPLETED"] += 1
        self._check_calls(name, trouble, cancelled=ends[0].status == CANCELLED)
        self._check_end(name, trouble, ends[0])
        if deltas(events) != text_of(ends[0].message):
            self._fault(TEXT, name, "streamed")
        if turn.usage != ends[0].usage:
            self._fault(USAGE, name, f"{turn.usage} as the turn has it")

    def _check_calls(self, name: str, trouble: Trouble, *, cancelled: bool) -> None:
        made, expected = self._answered[name], trouble.end.requests
        if any(isinstance(answer, Reply) for answer in trouble.answers[: made - 1]):
            self._fault(RETRIED, name, f"{made} calls")
        elif made > expected or (made < expected and not cancelled):
            self._fault(MISCOUNTED, name, f"{made} instead of {expected}")

    def _check_end(self, name: str, trouble: Trouble, finished: TurnFinished) -> None:
        end, error, usage = trouble.end, finished.error, finished.usage
        text = text_of(finished.message)
        if finished.status == CANCELLED and trouble.cancelled_after is not None:
            if not end.text.startswith(text):
                self._fault(TEXT, name, text)
            if not end.usage.allows_cancelled(usage) or (text and not usage.output_tokens):
                self._fault(USAGE, name, f"{usage} of {end.usage}")
            return
        if error.reason != end.reason or (finished.status == COMPLETED) != (not end.reason):
            self._fault(REASON, name, f"{error.reason} instead of {end.reason}")
            return
        delay = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
        if delay != end.retry_delay:
            self._fault(DELAY, name, f"{delay} instead of {end.retry_delay}")
        if not end.usage.allows(usage):
            self._fault(USAGE, name, f"{usage} instead of {end.usage}")
        if text != end.text and not (end.reason == "TURN_TIMEOUT" and text and end.text.startswith(text)):
            self._fault(TEXT, name, text)

    def _fault(self, kind: str, name: str, what: str) -> None:
        where = f"{name}: {what}; {self._troubles.get(name)}"
        self.faults.append((kind, where))
        sys.stderr.write(f"{kind}: {where}\n")

    def figures(self) -> list[Figure]:
        """Counts of what was tried, and of each kind of fault, which must be 0."""
        counts = Counter(kind for kind, _ in self.faults)
        return [
            tried("runs", len(self._troubles) - len(self._left)),
            tried("requests to the provider", len(self.api.requests)),
            *(Figure(f"ended {reason}", count) for reason, count in sorted(self.reasons.items())),
            *(Figure(kind, counts[kind], "", "=", 0) for kind in FAULTS),
            Figure("upstream connections open at the end", len(self.api.answering), "", "=", 0),
            Figure("from CancelTurn to a closed connection under load, median", _median(self.cancelled), "ms"),
            Figure(
                "from CancelTurn to a closed connection with nothing else running, longest",
                max(self.cancelled_alone, default=NOT_MEASURED),
                "ms",
                "≤",
                100,
            ),
        ]


def _median(values: list[float]) -> float:
    return median(values) if values else 0.0


def _name(received: Received) -> str:
    return str(received.body["messages"][-1]["content"][-1]["text"])


async def upstream(run: Run, *, rounds: int) -> list[Figure]:
    """Runs turns against a failing provider; counts what did not end as it must."""
    turns = Upstream(seed=run.seed, runs=rounds, mutant=run.mutant)
    with patching() as patch:
        mutate(run.mutant, patch)
        async with turns.api as api, _server(api, run.directory) as running:
            caller = running.caller()
            await asyncio.gather(*(turns.run(caller) for _ in range(RUNS_AT_A_TIME)))
            if not (run.mutant and turns.faults):
                await turns.cancels(caller)
            return turns.figures()


def _server(api: FakeMessagesApi, directory: Path) -> AbstractAsyncContextManager[Serving]:
    server: AbstractAsyncContextManager[Serving] = asking(
        api,
        directory,
        log_level="warning",
        turn_timeout_seconds=TURN_SECONDS,
        anthropic_max_retries=MAX_RETRIES,
        anthropic_stall_seconds=STALL_SECONDS,
    )
    return server
