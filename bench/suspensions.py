"""Part (o): what a neighbour notices when all streams of a vault end at once."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub

from bench.figure import Figure
from bench.processes import LoadFailed, model_service, token
from bench.sizes import at
from tests.support.garbage import frozen
from tests.support.paths import ROOT
from tests.support.processes import service

VAULT = "suspended"
ROUNDS = 10
IDLE_SECONDS = 2.0
# Between two calls of the neighbour, which do not wait for each other: a server that stalls delays all that come.
PACE_SECONDS = 0.002
MOST_RATIO, FLOOR_MS = 3, 5
PATIENCE_SECONDS = 120.0
# A reply's first word comes at once, and the second one after everything.
MODEL = ["tests.support.fakes.messages_api", "--words", "100", "--delay-ms", "5000"]
# Those who hold the streams are not the server's work.
NICE = ["nice", "-n", "10"]


@dataclass(frozen=True)
class Held:
    """The streams of the vault that is suspended."""

    turns: int = 0
    watchers: int = 0

    @property
    def about(self) -> str:
        named = ((self.turns, "running turns"), (self.watchers, "watchers"))
        return " and ".join(f"{count:,} {name}" for count, name in named if count)


HELD = (Held(turns=100), Held(watchers=1_000))
STEPS = len(HELD)


class Suspensions:
    """Measures GetSession of another vault while one is suspended, again and again, until all of its streams ended."""

    def __init__(self, *, step: Callable[[str], None], held: tuple[Held, ...] = HELD, rounds: int = ROUNDS) -> None:
        self._step = step
        self._held = held
        self._rounds = rounds

    def figures(self) -> Iterator[Figure]:
        """Yields the figures."""
        for held in self._held:
            self._step(f"a suspension with {held.about}")
            with (
                tempfile.TemporaryDirectory() as name,
                service(MODEL, Path(name), wrapper=NICE) as model,
                model_service(Path(name) / "metamorph.db", f"http://{model.target}") as server,
                frozen(),
            ):
                yield from asyncio.run(self._measured(server.target, held))

    async def _measured(self, target: str, held: Held) -> list[Figure]:
        async with grpc.aio.insecure_channel(target) as channel, _holding(target, held) as hold:
            neighbour, operator = Neighbour(channel), Operator(channel)
            await neighbour.prepare()
            idle, beside, seconds = list[float](), list[float](), list[float]()
            for _ in range(self._rounds):
                await hold.open()
                idle += await neighbour.calls(asyncio.sleep(IDLE_SECONDS))
                began = time.perf_counter()
                beside += await neighbour.calls(operator.suspend(hold.ended()))
                seconds.append(time.perf_counter() - began)
                await operator.resume()
        ours, its = at(beside, 99) * 1e3, at(idle, 99) * 1e3
        ratio = ours / max(its, FLOOR_MS)
        name = f"(o) GetSession of a neighbour beside a suspension with {held.about}; reference: before"
        most = f"≤ {MOST_RATIO} at p99, of {FLOOR_MS} ms at least"
        lasting = f"p50 {at(seconds, 50):.2f} s, most {max(seconds):.2f} s"
        return [
            Figure(name, _text(beside), _text(idle), f"{ratio:.2f}", most, ratio <= MOST_RATIO),
            Figure(f"(o) until all of {held.about} have ended", lasting),
        ]


def _text(seconds: list[float]) -> str:
    p50, p99 = at(seconds, 50) * 1e3, at(seconds, 99) * 1e3
    return f"p50 {p50:.1f}, p99 {p99:.1f}, most {max(seconds) * 1e3:.1f} ms ({len(seconds):,} calls)"


class Neighbour:
    """Gets a session of its own again and again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = ChatServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token('neighbour')}"),)

    async def prepare(self) -> None:
        created = await self._stub.CreateSession(pb.CreateSessionRequest(), metadata=self._metadata)
        self._request = pb.GetSessionRequest(session_id=created.session.session_id)

    async def calls(self, until: Awaitable[Any]) -> list[float]:
        """Returns the seconds of the calls that began until that is done."""
        done = asyncio.ensure_future(until)
        calls = []
        while not done.done():
            calls.append(asyncio.create_task(self._call()))
            await asyncio.sleep(PACE_SECONDS)
        await done
        return await asyncio.gather(*calls)

    async def _call(self) -> float:
        began = time.perf_counter()
        await self._stub.GetSession(self._request, metadata=self._metadata, timeout=PATIENCE_SECONDS)
        return time.perf_counter() - began


class Operator:
    """Suspends and resumes the vault."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = AdminServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token('operations', operator=True)}"),)

    async def suspend(self, ended: Awaitable[Any]) -> None:
        """Returns when all turns and streams have ended."""
        request = admin_pb.SuspendVaultRequest(vault_id=VAULT, reason="for measuring")
        while (await self._stub.SuspendVault(request, metadata=self._metadata)).running_turn_count:
            pass
        await ended

    async def resume(self) -> None:
        await self._stub.ResumeVault(admin_pb.ResumeVaultRequest(vault_id=VAULT), metadata=self._metadata)


class Hold:
    """A process that holds streams, see `bench.held`."""

    def __init__(self, process: asyncio.subprocess.Process, held: Held) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self._held = held

    async def open(self) -> None:
        """Opens all streams. Raises LoadFailed."""
        self._input.write(b"\n")
        await self._line()

    async def ended(self) -> None:
        """Returns when all have ended as those of a suspended vault. Raises LoadFailed."""
        reasons = json.loads(await self._line())
        if reasons != {"VAULT_SUSPENDED": self._held.turns + self._held.watchers}:
            raise LoadFailed(f"streams ended as {reasons}")

    async def _line(self) -> bytes:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                line = await self._output.readline()
        except TimeoutError:
            raise LoadFailed(f"not done within {PATIENCE_SECONDS:.0f} s") from None
        if not line:
            raise LoadFailed("the streams cannot be held")
        return line


@asynccontextmanager
async def _holding(target: str, held: Held) -> AsyncIterator[Hold]:
    process = await asyncio.create_subprocess_exec(
        *NICE, sys.executable, "-m", "bench.held", target, VAULT,
        "--turns", str(held.turns), "--watchers", str(held.watchers),
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Hold(process, held)
    finally:
        process.kill()
        await process.wait()
