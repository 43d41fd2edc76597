"""Clients that never read a long reply: half open no HTTP/2 window, half do not read from their socket."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from metamorph_client.chat.v1.chat_service_pb2 import StreamTurnRequest
from metamorphd.edge.grpc.adapter import LAST_SEND_SECONDS
from metamorphd.edge.streams import LOOK_SECONDS, PATIENCE_SECONDS

from harness.abuse.subject import Subject, since, subject
from harness.figure import NOT_MEASURED, Figure
from harness.run import Run
from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.http2 import LARGEST_WINDOW, Connection, block, headers
from tests.support.tokens import mint

CLIENTS = 100
# Streams of a client that does not read its socket: more than what is buffered on the way to it.
DEAF_STREAMS = 4
PATH = "/metamorph.chat.v1.ChatService/StreamTurn"
# The longest reply.
REPLY = Reply(("x" * 4_000,) * 250)
SMALLEST_SOCKET_BUFFER = 4096
# The interval of the check, the last send, and a busy machine.
SLACK_SECONDS = LOOK_SECONDS + LAST_SEND_SECONDS + 5


@dataclass(frozen=True)
class Cut:
    """A stream that the server ended: its client, after how many seconds, and the reason or otherwise the code.

    One that does not read its socket may end OK, if the whole reply fits into buffers.
    """

    client: str
    seconds: float
    reason: str


async def attack(
    run: Run,
    *,
    seconds: float = PATIENCE_SECONDS,
    slack: float = SLACK_SECONDS,
    most_megabytes: float = 100,
) -> list[Figure]:
    """Attacks a server that ends streams unread for some seconds; measures when it did so, and its memory."""
    async with FakeMessagesApi(REPLY) as api:
        environment = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with subject(run.directory, mutant=run.mutant, patience_seconds=seconds, environment=environment) as server:
            async with server.caller(vault="hostile") as caller:
                turn_id = await _long_turn(caller)
            async with server.growing():
                cuts, informed = await _hang(server, turn_id, seconds + slack)
            whole = Counter(_streams())
            ours = [cut.seconds for cut in cuts if cut.reason == "READER_TOO_SLOW"]
            latest = max((cut.seconds for cut in cuts), default=NOT_MEASURED)
            return [
                Figure("clients", CLIENTS),
                Figure("clients cut", sum(whole[client] == cut for client, cut in _by_client(cuts)), "", "=", CLIENTS),
                Figure("streams that nobody read", len(cuts)),
                Figure(
                    "streams cut because their connection answered no ping",
                    sum(cut.reason == "CANCELLED" for cut in cuts),
                ),
                Figure("earliest cut for not reading", min(ours, default=0), "s", "≥", seconds),
                Figure("latest cut", latest, "s", "≤", seconds + slack),
                Figure("clients that receive the status once they open a window", informed, "", "=", CLIENTS // 2),
                Figure("memory growth", server.growth, "MB", "≤", most_megabytes),
            ]


async def _long_turn(caller: Caller) -> str:
    session = await caller.create_session()
    events = await caller.send(session.session_id)
    return events[0].turn_id


def _streams() -> Iterator[str]:
    """Yields a client's number for each of its streams. Even ones do not read their socket."""
    for number in range(CLIENTS):
        yield from [str(number)] * (1 if number % 2 else DEAF_STREAMS)


async def _hang(server: Subject, turn_id: str, seconds: float) -> tuple[list[Cut], int]:
    """Opens all streams and waits until all are cut, at most for some seconds.

    Returns the cuts, and how many streams receive the status once they open a window.
    """
    request = StreamTurnRequest(turn_id=turn_id).SerializeToString()
    token = mint("hostile")
    connections: dict[str, Connection] = {}
    async with AsyncExitStack() as stack:
        for client in _streams():
            if client not in connections:
                connections[client] = await stack.enter_async_context(_client(server, deaf=int(client) % 2 == 0))
            connections[client].call(block([*headers(PATH, token), ("x-request-id", client)]), request)
        cuts = await _all_cuts(server, seconds)
        for connection in connections.values():
            connection.widen(LARGEST_WINDOW)
        await asyncio.sleep(1)
        return cuts, sum(len(connection.ended) for connection in connections.values())


def _client(server: Subject, *, deaf: bool) -> Connection:
    if deaf:
        return Connection(server.target, reads=False, receive_buffer=SMALLEST_SOCKET_BUFFER)
    return Connection(server.target, window=0)


async def _all_cuts(server: Subject, seconds: float) -> list[Cut]:
    began = time.monotonic()
    while True:
        cuts = list(_cuts(server))
        if since(began) > seconds or len(cuts) == len(list(_streams())):
            return cuts
        await asyncio.sleep(0.5)


def _cuts(server: Subject) -> Iterator[Cut]:
    for line in server.lines():
        if line.get("endpoint") == PATH:
            yield Cut(line["call_id"], line["duration"] / 1000, line.get("reason", line["code"]))


def _by_client(cuts: list[Cut]) -> Iterable[tuple[str, int]]:
    return Counter(cut.client for cut in cuts).items()
