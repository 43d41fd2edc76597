"""Rounds of kill -9, at random moments and at named points, under clients that keep chatting."""

import asyncio
import math
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from metamorph_client import channel
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_CANCELLED as CANCELLED
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_INTERRUPTED as INTERRUPTED

from harness.figure import Figure
from harness.mutants import patching
from harness.run import Run
from harness.torture.chatter import Chatter
from harness.torture.kill_points import POINTS
from harness.torture.ledger import DIED, ENDLESS, LONG_SECONDS, Ledger, longest_running
from harness.torture.zygote import Life, Zygote
from tests.support.ports import free_port
from tests.support.processes import Service, service

CLIENTS = 20
WORDS = 40
# The longest life in a round with a random moment, and in one whose point is not reached.
LONGEST_SECONDS = 1.6
OVERDUE_SECONDS = 3.0
# How often a point is passed within a life: few turns begin and end in one life.
PASSES = {"start": 15, "finish": 15}
MANY_PASSES = 100
LAST_TURNS_SECONDS = 15.0
MUTANT_SECONDS = 3.0
NOTED_ROUNDS = 100


class Crash:
    """The lives of a server, one per round. Stops at the first fault when it looks for a mutant."""

    def __init__(self, zygote: Zygote, *, seed: int, mutant: str) -> None:
        self.ledger = Ledger()
        self.lives: list[Life] = []
        self.by_point = 0
        self._zygote = zygote
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._mutant = mutant

    async def under(self, chatters: Sequence[Chatter], rounds: int) -> list[tuple[float, float]]:
        """Runs the rounds while all clients chat, then starts a server that stays up and reads everything again.

        Returns the (create, finish) times of all turns.
        """
        chatting = [asyncio.create_task(chatter.run()) for chatter in chatters]
        await self.rounds(rounds)
        await self.last()
        for chatter in chatters:
            chatter.stopping = True
        _, hanging = await asyncio.wait(chatting, timeout=MUTANT_SECONDS if self._mutant else LAST_TURNS_SECONDS)
        for task in hanging:
            task.cancel()
            self.ledger.fault(ENDLESS, "a client that still waits for its turn's end")
        await asyncio.gather(*chatting, return_exceptions=bool(hanging))
        spans = await asyncio.gather(*(chatter.check() for chatter in chatters))
        for chatter in chatters:
            await chatter.close()
        return [span for of_chatter in spans for span in of_chatter]

    async def rounds(self, count: int) -> None:
        """Starts the server and ends it by SIGKILL, again and again."""
        for number in range(count):
            if number % NOTED_ROUNDS == 0:
                sys.stderr.write(f"crash: {number} of {count} rounds, {len(self.ledger.turns)} turns\n")
            if self._mutant and self.ledger.faults:
                return
            point = self._random.choice([*POINTS, *[""] * len(POINTS)])
            passes = PASSES.get(point.partition(" ")[2], MANY_PASSES)
            passed = math.ceil(math.exp(self._random.uniform(0, math.log(passes))))
            seconds = OVERDUE_SECONDS if point else self._random.uniform(0, LONGEST_SECONDS)
            life = self._start(point=point, count=passed)
            self.by_point += await life.ends_within(seconds) and bool(point)
            await self._zygote.kill()
            if life.status != -signal.SIGKILL:
                self.ledger.fault(DIED, str(life))
                return

    async def last(self) -> None:
        """Starts a server that stays up. Raises RuntimeError if it cannot start."""
        if not await self._start().until_serving():
            raise RuntimeError(f"the server does not start: {self._zygote.log.read_text()[-2000:]}")

    def _start(self, *, point: str = "", count: int = 0) -> Life:
        life = self._zygote.start(mutant=self._mutant, point=point, count=count)
        self.lives.append(life)
        return life


async def crash(run: Run, *, rounds: int, clients: int = CLIENTS) -> list[Figure]:
    """Kills the server in rounds; counts what was lost."""
    arguments = ["--words", str(WORDS), "--delay-ms", "15", "--random"]
    with service(["tests.support.fakes.messages_api", *arguments], run.directory) as api, patching() as patch:
        # Otherwise all clients of this process would share one connection.
        patch(channel, "OPTIONS", [*channel.OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
        async with _zygote(run.directory, api) as zygote:
            crashes = Crash(zygote, seed=run.seed, mutant=run.mutant)
            chatters = [
                Chatter(number, target=zygote.target, seed=run.seed, ledger=crashes.ledger) for number in range(clients)
            ]
            spans = await crashes.under(chatters, rounds)
            await zygote.kill()
    return _figures(crashes, rounds, spans)


def _zygote(directory: Path, api: Service) -> Zygote:
    return Zygote(
        directory, port=free_port(), anthropic_api_key="sk-torture", anthropic_base_url=f"http://{api.target}"
    )


def _figures(crashes: Crash, rounds: int, spans: list[tuple[float, float]]) -> list[Figure]:
    served = [life.served_at - life.began for life in crashes.lives if life.served_at]
    ended = Counter(turn.status for turn in crashes.ledger.turns)
    return [
        Figure("rounds of kill -9", len(crashes.lives) - 1, "", "=", rounds),
        Figure("kills at a named point", crashes.by_point),
        Figure("from start to serving, median", median(served), "s"),
        Figure("from start to serving, longest", max(served), "s"),
        *crashes.ledger.figures(),
        Figure("turns that were cancelled", ended[CANCELLED]),
        Figure("turns that a crash interrupted", ended[INTERRUPTED]),
        Figure(
            "longest that a turn still ran after a restart",
            longest_running(crashes.lives, spans),
            "s",
            "≤",
            LONG_SECONDS,
        ),
    ]
