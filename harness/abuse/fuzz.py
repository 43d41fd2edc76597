"""Malformed requests, metadata and frames to every method."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from metamorphd.edge.methods import SERVICES

from harness.abuse.inputs import Exchange, drawn, exchanges, requests
from harness.abuse.rpcs import EARLY, LOST_STATUS
from harness.abuse.subject import Subject, neighbour, p99, subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.http2 import Connection, Headers
from tests.support.http2 import headers as call_headers
from tests.support.tokens import ALL, mint

BATCH = 60
# Enough of a stream that does not end.
CALL_SECONDS = 0.5
RESPONSES = 5
EXCHANGES_A_CONNECTION = 5
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
EXAMPLES = 3
# Text that some method failed on once.
FOUND_BEFORE = (b"a\0b", b'a"b')
OURS_TO_AVOID = ("INTERNAL", "UNKNOWN")


async def attack(run: Run, *, seconds: float) -> list[Figure]:
    """Sends random input for some seconds, and returns how the server took it."""
    methods = [method for service in (*SERVICES, HEALTH, REFLECTION) for method in service.methods]
    sent = codes = Counter[str]()
    with subject(run.directory, mutant=run.mutant) as server:
        fuzzer = Fuzzer(server, methods, await _texts(server))
        async with neighbour(server) as calls:
            until = time.monotonic() + seconds
            for number in count():
                await fuzzer.send(run.seed, number)
                if time.monotonic() > until or not server.alive:
                    break
        sent, codes = fuzzer.sent, fuzzer.codes
        lines = list(server.lines())
        failed = sum(line.get("code") in OURS_TO_AVOID for line in lines)
        errors = [line for line in lines if line["level"] in ("error", "critical")]
        return [
            *(Figure(f"inputs, {kind}", number) for kind, number in sorted(sent.items())),
            *(Figure(f"answers, {code}", number) for code, number in sorted(codes.items())),
            Figure("crashes", float(not server.alive), "", "=", 0),
            Figure(
                "calls that ended INTERNAL or UNKNOWN", failed + sum(map(codes.get, OURS_TO_AVOID, (0, 0))), "", "=", 0
            ),
            Figure("errors in the log", len(errors), "", "=", 0, _named(errors)),
            tried("neighbour's calls", len(calls)),
            Figure("neighbour's calls that failed", calls.count(float("inf")), "", "=", 0),
            Figure("neighbour's p99", p99(calls), "ms"),
        ]


def _named(errors: Sequence[dict[str, Any]]) -> str:
    """Names the calls that failed, with the last line of the exception."""
    names = {f"{line.get('endpoint', '')} {line.get('exception', line['message']).splitlines()[-1]}" for line in errors}
    return ", ".join(sorted(names)[:EXAMPLES])


async def _texts(server: Subject) -> list[bytes]:
    """Returns ids that exist, so that requests get past the first check, and text that was trouble before."""
    async with server.caller(vault="hostile") as caller:
        session = await caller.create_session()
        started = (await caller.send(session.session_id))[0]
        messages = await caller.messages(session.session_id)
    ids = [session.session_id, started.turn_id, *(found.message_id for found in messages)]
    return [*(each.encode() for each in ids), b"title", b"metadata", b"session_id,title", b"1", b"", *FOUND_BEFORE]


class Fuzzer:
    """Draws and sends input; counts what it sent and the codes it received."""

    def __init__(self, server: Subject, methods: Sequence[MethodDescriptor], texts: Sequence[bytes]) -> None:
        self._server = server
        self.sent: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        tokens = (mint("hostile", "hostile", ALL), mint("hostile", "operator", ALL, operator=True))
        self._metadata = [(("authorization", f"Bearer {token}"),) for token in tokens]
        self._methods = [(method, requests(method.input_type, texts)) for method in methods]
        bases: list[Headers] = [call_headers(_path(method), tokens[0]) for method in methods]
        # Input that stopped a server once is always sent.
        self._found_before = [
            Exchange([(":path", b"/\xfe") if name == ":path" else (name, value) for name, value in bases[0]], ())
        ]
        self._exchanges = exchanges([*bases, call_headers("/no.such/Method", tokens[0])])

    async def send(self, seed: int, number: int) -> None:
        """Sends a batch of each kind: requests of one method, and hand-written HTTP/2."""
        method, strategy = self._methods[number % len(self._methods)]
        bodies = drawn(strategy, seed=seed + number, count=BATCH)
        async with grpc.aio.insecure_channel(self._server.target) as channel:
            await asyncio.gather(
                *(self._call(channel, method, number + place, body) for place, body in enumerate(bodies))
            )
        calls = drawn(self._exchanges, seed=seed + number, count=BATCH)
        if number == 0:
            calls += self._found_before
        await asyncio.gather(*(self._speak(some) for some in _groups(calls)))

    async def _call(self, channel: grpc.aio.Channel, method: MethodDescriptor, number: int, body: bytes) -> None:
        self.sent["requests"] += 1
        metadata = self._metadata[number % 2]
        # Works for every kind of method: they differ only in how many messages follow.
        stub: Any = channel.stream_stream(_path(method))
        call = stub(iter([body]), metadata=metadata, timeout=CALL_SECONDS)
        try:
            for _ in range(RESPONSES):
                if await call.read() is grpc.aio.EOF:
                    break
            else:
                call.cancel()
            code = (await call.code()).name
        except grpc.aio.AioRpcError as error:
            # The client could not send any more, because the answer came first.
            code = EARLY if error.details() == LOST_STATUS else error.code().name
        except asyncio.CancelledError:
            code = "CANCELLED"
        self.codes[code] += 1

    async def _speak(self, some: Sequence[Exchange]) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with Connection(self._server.target) as connection, asyncio.timeout(CALL_SECONDS):
                for exchange in some:
                    self.sent["exchanges"] += 1
                    connection.write(exchange.on(connection.stream()))
                    await connection.drain()
                    await asyncio.sleep(0.001)
                await connection.until_quiet()


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _groups(found: Sequence[Exchange]) -> Iterator[Sequence[Exchange]]:
    for start in range(0, len(found), EXCHANGES_A_CONNECTION):
        yield found[start : start + EXCHANGES_A_CONNECTION]
