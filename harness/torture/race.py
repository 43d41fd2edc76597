"""Replay against live events: followers attach at any moment of short turns, at any sequence."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

import grpc
from metamorph_client.chat.v1.turn_pb2 import TurnEvent
from metamorphd.chat import live_turn

from harness.figure import Figure, tried
from harness.mutants import mutate, patching
from harness.run import Run
from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.serving import asking
from tests.support.turns import followed

# Few enough that events are not paced: each is published alone.
TURNS_AT_A_TIME = 3
FOLLOWERS = 12
WORDS = tuple(f"word{number} " for number in range(8))
DELAY_SECONDS = 0.002
# So short that followers who are behind replay from the table, then continue live.
TAIL_EVENTS = 2
PATIENCE_SECONDS = 10.0
MUTANT_PATIENCE_SECONDS = 2.0
GAP = "followers that missed an event"
REPEAT = "followers that saw an event twice, or out of order"
WAITING = "followers that never saw the end"
REFUSED = "followers that were refused"


class Race:
    """Turns, and the faults that their followers saw."""

    def __init__(self, *, seed: int, mutant: str) -> None:
        self.attached = self.attached_live = self.events = 0
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._mutant = mutant
        self._patience = MUTANT_PATIENCE_SECONDS if mutant else PATIENCE_SECONDS
        # How long a turn lasts: followers attach until a little after its end.
        self._turn_seconds = 0.1

    async def run(self, caller: Caller, followers: int) -> None:
        """Runs turns until enough followers have attached."""
        session_id = (await caller.create_session()).session_id
        while self.attached < followers and not (self._mutant and self.faults.total()):
            await self._turn(caller, session_id)

    async def _turn(self, caller: Caller, session_id: str) -> None:
        # Every turn begins a branch of its own, so that prompts stay short.
        call = caller.start(session_id, parent_message_id="")
        seen: list[TurnEvent] = []
        ended = asyncio.Event()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not ended.is_set():
                try:
                    async with asyncio.timeout(self._patience):
                        seen.append(await call.next())
                except TimeoutError:
                    self.faults[WAITING] += 1
                    ended.set()
                if len(seen) == 1:
                    for _ in range(FOLLOWERS):
                        group.create_task(self._follower(caller, seen, ended))
                if seen[-1].HasField("turn_finished"):
                    ended.set()
                    self._turn_seconds = time.monotonic() - began
            self.faults[GAP] += [event.sequence for event in seen] != list(range(1, len(seen) + 1))

    async def _follower(self, caller: Caller, seen: list[TurnEvent], ended: asyncio.Event) -> None:
        await asyncio.sleep(self._random.uniform(0, 1.3 * self._turn_seconds))
        after = self._random.randint(0, len(seen))
        self.attached += 1
        self.attached_live += not ended.is_set()
        try:
            async with asyncio.timeout(self._patience):
                events = await followed(caller, seen[0].turn_id, after)
        except TimeoutError:
            self.faults[WAITING] += 1
            return
        except grpc.aio.AioRpcError:
            self.faults[REFUSED] += 1
            return
        await ended.wait()
        self.events += len(events)
        if seen[-1].HasField("turn_finished"):
            self._compare(events, seen[after:])

    def _compare(self, events: Sequence[TurnEvent], expected: Sequence[TurnEvent]) -> None:
        if list(events) == list(expected):
            return
        missed = [event for event in expected if event not in events]
        self.faults[GAP if missed else REPEAT] += 1

    def figures(self, seconds: float) -> list[Figure]:
        """Counts of what was tried, and of each kind of fault, which must be 0."""
        return [
            tried("followers", self.attached),
            tried("followers that attached while the turn ran", self.attached_live),
            tried("events that they saw", self.events),
            *(Figure(kind, self.faults[kind], "", "=", 0) for kind in (GAP, REPEAT, WAITING, REFUSED)),
            Figure("time", seconds, "s"),
        ]


async def race(run: Run, *, rounds: int) -> list[Figure]:
    """Attaches followers to turns; counts what they missed."""
    reply = Reply(WORDS, delay=DELAY_SECONDS, uneven=True)
    turns = Race(seed=run.seed, mutant=run.mutant)
    with patching() as patch:
        patch(live_turn, "TAIL_EVENTS", TAIL_EVENTS)
        mutate(run.mutant, patch)
        async with FakeMessagesApi(reply) as api, asking(api, run.directory, log_level="warning") as running:
            began = time.monotonic()
            await asyncio.gather(*(turns.run(running.caller(), rounds) for _ in range(TURNS_AT_A_TIME)))
            return turns.figures(time.monotonic() - began)
