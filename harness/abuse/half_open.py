"""More half-sent HTTP requests and silent gRPC connections than a process has descriptors by default."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import psutil
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.edge.connections import raise_descriptor_limit

from harness.abuse.subject import Subject, neighbour, p99, subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.caller import Caller
from tests.support.tokens import mint

# Linux's default. The server raises it to the hard limit, of which half is for gRPC.
DESCRIPTORS = 1024
HALF_SENT = b"GET /health HTTP/1.1\r\nhost: a\r\n"
# Opened at a time, fewer than a listener's backlog.
BATCH = 50
PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 5.0
FAILED = float("inf")


class Flood:
    """Keeps so many connections to a port open: one that the server closes is opened again."""

    def __init__(self, port: int, connections: int, *, sent: bytes) -> None:
        self._port = port
        self._connections = connections
        self._sent = sent
        self._open: list[asyncio.WriteTransport] = []
        self.opened = 0

    async def fill(self) -> None:
        """Opens what is missing."""
        self._open = [connection for connection in self._open if not connection.is_closing()]
        while len(self._open) < self._connections:
            batch = [self._connect() for _ in range(min(BATCH, self._connections - len(self._open)))]
            made = [connection for connection in await asyncio.gather(*batch) if connection is not None]
            self._open += made
            self.opened += len(made)
            if len(made) < len(batch):
                break

    async def _connect(self) -> asyncio.WriteTransport | None:
        """Returns a connection, which closes when the server closes it, or None if the server accepts none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", self._port)
        except OSError:
            return None
        transport.write(self._sent)
        return transport

    def close(self) -> None:
        """Closes all of them."""
        for connection in self._open:
            connection.abort()


async def attack(
    run: Run, *, half_sent: int = 1100, silent: int = 1100, seconds: float = 30, most_milliseconds: float = 1000
) -> list[Figure]:
    """Keeps so many of each kind open for some seconds, while others call on connections that are open, and on new
    ones."""
    raise_descriptor_limit()
    # For gRPC as many as the flood has, and a few for others.
    limit = f"--nofile={DESCRIPTORS}:{2 * silent + 200}"
    with subject(run.directory, mutant=run.mutant, wrapper=["prlimit", limit]) as server:
        process = psutil.Process(server.service.process.pid)
        http = Flood(server.service.http_port, half_sent, sent=HALF_SENT)
        grpc_port = Flood(server.service.port, silent, sent=b"")
        async with neighbour(server) as kept:
            before = process.num_fds()
            async with newcomers(server) as (health, calls):
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    await http.fill()
                    await grpc_port.fill()
                    await asyncio.sleep(PAUSE_SECONDS)
                most = process.num_fds()
                http.close()
                grpc_port.close()
                await asyncio.sleep(1)
            async with newcomers(server) as afterwards:
                await asyncio.sleep(1)
        return [
            tried("half-sent requests opened", http.opened),
            tried("silent connections opened", grpc_port.opened),
            Figure("descriptors at its end", most, detail=f"{before} before"),
            *_met("calls on an open connection", kept, most_milliseconds),
            *_met("calls on new connections", calls, most_milliseconds),
            *_met("requests of /health", health, most_milliseconds),
            *_met("calls and requests afterwards", [each for kind in afterwards for each in kind], most_milliseconds),
            Figure("descriptors afterwards, more than before", process.num_fds() - before, "", "≤", 50),
        ]


def _met(name: str, milliseconds: list[float], most: float) -> list[Figure]:
    return [
        Figure(f"{name} that failed", milliseconds.count(FAILED), "", "=", 0, f"of {len(milliseconds)}"),
        Figure(f"{name}: p99", p99(milliseconds), "ms", "≤", most),
    ]


@asynccontextmanager
async def newcomers(server: Subject) -> AsyncIterator[tuple[list[float], list[float]]]:
    """Asks for /health, and calls, each time on a connection of its own, during the block.

    Yields two lists that hold the milliseconds of each, infinity for one that failed.
    """
    health: list[float] = []
    calls: list[float] = []

    async def ask() -> None:
        while True:
            began = time.perf_counter()
            try:
                async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as http:
                    answer = await http.get(f"{server.http}/health")
                health.append((time.perf_counter() - began) * 1000 if answer.status_code == 200 else FAILED)
            except httpx.HTTPError:
                health.append(FAILED)
            await asyncio.sleep(PAUSE_SECONDS)

    async def call() -> None:
        token = [("authorization", f"Bearer {mint()}")]
        while True:
            began = time.perf_counter()
            try:
                options = [("grpc.use_local_subchannel_pool", 1)]
                async with grpc.aio.insecure_channel(server.target, options=options) as channel:
                    caller = Caller(channel, token)
                    await caller.vault.WhoAmI(WhoAmIRequest(), metadata=token, timeout=TIMEOUT_SECONDS)
                calls.append((time.perf_counter() - began) * 1000)
            except grpc.aio.AioRpcError:
                calls.append(FAILED)
            await asyncio.sleep(PAUSE_SECONDS)

    tasks = [asyncio.create_task(ask()), asyncio.create_task(call())]
    try:
        yield health, calls
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
