"""Ten thousand idle streams, over as many connections as they need."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from metamorph_client.chat.v1.chat_service_pb2 import StreamTurnRequest
from metamorphd.edge.grpc.port import CONCURRENT_STREAMS

from harness.abuse.subject import Subject, neighbour, p99, subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.http2 import Connection, block, headers
from tests.support.tokens import mint

PATH = "/metamorph.chat.v1.ChatService/StreamTurn"
TURNS = 20
# Opened at a time: what is measured is what they cost once they are open.
BATCH = 50
OPEN_SECONDS = 60


async def attack(
    run: Run,
    *,
    streams: int = 10_000,
    seconds: float = 20,
    most_megabytes: float = 300,
    most_milliseconds: float = 20,
) -> list[Figure]:
    """Follows stalled turns with many streams while a neighbour calls for some seconds."""
    async with FakeMessagesApi(Reply(("a", "b"), hold=asyncio.Event())) as api:
        environment = {
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": api.base_url,
            "ANTHROPIC_STALL_SECONDS": "600",
        }
        with subject(run.directory, mutant=run.mutant, environment=environment) as server:
            # Warms up: a server's first calls load what is loaded once.
            async with neighbour(server):
                await asyncio.sleep(1)
            turn_ids = await _held_turns(server)
            async with AsyncExitStack() as stack, server.growing():
                connections = await _open(stack, server, turn_ids, streams)
                async with neighbour(server) as calls:
                    await asyncio.sleep(seconds)
                open_streams = sum(len(connection.received) - len(connection.ended) for connection in connections)
            return [
                Figure("connections", len(connections)),
                Figure("idle streams that are still open", open_streams, "", "=", streams),
                tried("neighbour's calls", len(calls)),
                Figure("neighbour's calls that failed", calls.count(float("inf")), "", "=", 0),
                Figure("neighbour's p99", p99(calls), "ms", "≤", most_milliseconds),
                Figure("memory growth", server.growth, "MB", "≤", most_megabytes),
                Figure("memory of a stream", server.growth * 1000 / streams, "kB"),
            ]


async def _held_turns(server: Subject) -> list[str]:
    async with server.caller(vault="hostile") as caller:
        turn_ids = []
        for _ in range(TURNS):
            events = caller.start((await caller.create_session()).session_id)
            turn_ids.append((await events.next()).turn_id)
            await events.next()
            events.call.cancel()
    return turn_ids


async def _open(stack: AsyncExitStack, server: Subject, turn_ids: list[str], streams: int) -> list[Connection]:
    """Follows the turns round-robin; returns once each stream has received the events so far."""
    header_block = block(headers(PATH, mint("hostile")))
    requests = [StreamTurnRequest(turn_id=turn_id).SerializeToString() for turn_id in turn_ids]
    connections: list[Connection] = []
    async with asyncio.timeout(OPEN_SECONDS):
        for first in range(0, streams, BATCH):
            if first % CONCURRENT_STREAMS == 0:
                connections.append(await stack.enter_async_context(Connection(server.target)))
            for number in range(BATCH):
                connections[-1].call(header_block, requests[number % TURNS])
            await connections[-1].until(partial(_all_answered, connections[-1], first % CONCURRENT_STREAMS + BATCH))
    return connections


def _all_answered(connection: Connection, streams: int) -> bool:
    return len(connection.received) == streams
