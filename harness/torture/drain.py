"""SIGTERM during turns: what callers receive, what ends within the grace, and what the next server says of the rest."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from dataclasses import replace

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_COMPLETED, TURN_STATUS_INTERRUPTED, TurnEvent

from harness.figure import NOT_MEASURED, Figure, tried
from harness.run import Run
from harness.torture.zygote import Life, Zygote
from tests.support.caller import Caller, Events, text_of
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Reply
from tests.support.ports import free_port
from tests.support.refusal import refused
from tests.support.tokens import mint
from tests.support.turns import deltas, stream

TURNS_OF_A_KIND = 6
GRACE_SECONDS = 1.5
BEFORE_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
# Some replies end within the grace, some outlast it, and one caller reads nothing until the server is gone.
SHORT = Reply(("word ",) * 20, delay=0.03, hold_after=10)
OTHERS = {"long": Reply(("word ",) * 300, delay=0.06), "unread": Reply(("word " * 4000,) * 100, delay=0.02)}
KINDS = ("short", *OTHERS)
REPORTED = "servers that reported NOT_SERVING"
ACCEPTED = "new turns not refused with SERVER_DRAINING and RetryInfo"
CUT = "turns that could end within the grace, and did not"
LEFT = "turns that outlasted the grace and are not INTERRUPTED with their text"
SILENT = "streams that ended neither with TurnFinished nor with a status to resume after"
OTHERWISE = "turns that the next server reports differently"
GIVEN_UP = "sends that the client did not carry over to the next server"
FAILED = "servers that did not exit with success"
FAULTS = (ACCEPTED, CUT, LEFT, SILENT, OTHERWISE, GIVEN_UP, FAILED)


class Seen:
    """One stream of a turn: its events, and how it ended."""

    def __init__(self, kind: str, events: Events) -> None:
        self.kind = kind
        self.brought: list[TurnEvent] = []
        self.refusal: MetamorphError | None = None
        self._events = events

    async def begin(self) -> None:
        """Reads its first event."""
        self.brought.append(await self._events.next())

    async def read(self) -> None:
        """Reads it to its end."""
        try:
            while True:
                self.brought.append(await self._events.next())
        except StopAsyncIteration:
            pass
        except grpc.aio.AioRpcError as error:
            self.refusal = MetamorphError.of(error)

    @property
    def turn_id(self) -> str:
        return self.brought[0].turn_id

    @property
    def ended_well(self) -> bool:
        """Whether it ended with TurnFinished, or with a status that allows to resume."""
        finished = self.brought[-1].HasField("turn_finished")
        return finished if self.refusal is None else self.refusal.resumable


class Drain:
    """Servers, one after another, each ended by SIGTERM."""

    def __init__(self, zygote: Zygote, *, mutant: str) -> None:
        self.faults: Counter[str] = Counter()
        self.not_serving: list[float] = []
        self.exits: list[float] = []
        self.refused = self.streams = 0
        self._zygote = zygote
        self._mutant = mutant
        self._short = SHORT

    def answer(self, received: Received) -> Reply:
        """Returns the model's reply. A short reply ends once the server has begun to drain."""
        kind, _, _ = str(received.body["messages"][-1]["content"][-1]["text"]).partition(" ")
        return self._short if kind == "short" else OTHERS[kind]

    async def start(self) -> Life:
        """Starts a server. Raises RuntimeError if it cannot start."""
        life = self._zygote.start(mutant=self._mutant)
        if not await life.until_serving():
            raise RuntimeError(f"the server does not start: {self._zygote.log.read_text()[-2000:]}")
        return life

    async def round(self, life: Life) -> Life:
        """Drains a server that runs turns. Returns the next one, after comparing what it says of them."""
        target, token = self._zygote.target, mint()
        terminated = asyncio.Event()
        self._short = replace(SHORT, hold=terminated)
        async with (
            grpc.aio.insecure_channel(target) as channel,
            grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as another,
            MetamorphClient(target, token=token) as client,
        ):
            caller, other = (Caller(each, [("authorization", f"Bearer {token}")]) for each in (channel, another))
            streams = [seen for kind in KINDS for seen in await self._begin(caller, other, kind)]
            session_id = (await caller.create_session()).session_id
            reading = [asyncio.create_task(seen.read()) for seen in streams if seen.kind != "unread"]
            await asyncio.sleep(BEFORE_SECONDS)
            began = await self._terminate(caller)
            terminated.set()
            carrying = asyncio.create_task(self._carry(client, session_id))
            await self._refuse(caller, session_id, life)
            self.exits.append(time.monotonic() - began)
            self.faults[FAILED] += life.status != 0
            await asyncio.gather(*reading, *(seen.read() for seen in streams if seen.kind == "unread"))
            following = await self.start()
            await self._check(client, streams)
            await carrying
        return following

    async def _begin(self, caller: Caller, other: Caller, kind: str) -> list[Seen]:
        streams = []
        for number in range(TURNS_OF_A_KIND if kind != "unread" else 1):
            session = await caller.create_session()
            sent = Seen(kind, caller.start(session.session_id, f"{kind} {number}"))
            await sent.begin()
            resumed = Seen(kind, Events(stream(other, sent.turn_id)))
            await resumed.begin()
            streams += [sent, resumed]
        self.streams += len(streams)
        return streams

    async def _terminate(self, caller: Caller) -> float:
        """Sends SIGTERM and waits until health reports it. Returns when the signal was sent."""
        watching = caller.health.Watch(HealthCheckRequest())
        health = aiter(watching)
        assert (await anext(health)).status == HealthCheckResponse.SERVING
        began = time.monotonic()
        self._zygote.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(1):
                assert (await anext(health)).status == HealthCheckResponse.NOT_SERVING
                self.not_serving.append((time.monotonic() - began) * 1000)
        watching.cancel()
        return began

    async def _refuse(self, caller: Caller, session_id: str, life: Life) -> None:
        """Tries to start turns until the server is gone."""
        gone = False
        while not gone:
            request = pb.SendMessageRequest(session_id=session_id, content=[])
            request.content.add().text.text = "short too late"
            try:
                refusal = await refused(caller.chat.SendMessage(request, metadata=caller.metadata))
            except AssertionError:
                self.faults[ACCEPTED] += 1
                continue
            gone = await life.ends_within(0.05)
            draining = (refusal.code.name, refusal.reason, bool(refusal.retry)) == (
                "UNAVAILABLE",
                "SERVER_DRAINING",
                True,
            )
            self.refused += draining
            # When the server exits, the last call meets a closing connection.
            self.faults[ACCEPTED] += not draining and not await life.ends_within(PATIENCE_SECONDS)

    async def _carry(self, client: MetamorphClient, session_id: str) -> None:
        """Sends a message with the Python client while the server drains."""
        try:
            events = [event async for event in client.send(session_id, "short and carried")]
        except MetamorphError:
            self.faults[GIVEN_UP] += 1
        else:
            self.faults[GIVEN_UP] += events[-1].turn_finished.status != TURN_STATUS_COMPLETED

    async def _check(self, client: MetamorphClient, streams: list[Seen]) -> None:
        for seen in streams:
            events = [event async for event in await client.follow(seen.turn_id)]
            finished = events[-1].turn_finished
            self.faults[SILENT] += not seen.ended_well
            self.faults[OTHERWISE] += events[: len(seen.brought)] != seen.brought
            if seen.kind == "short":
                self.faults[CUT] += finished.status != TURN_STATUS_COMPLETED
                continue
            interrupted = (finished.status, finished.error.reason) == (TURN_STATUS_INTERRUPTED, "TURN_INTERRUPTED")
            text = text_of(finished.message)
            self.faults[LEFT] += not (interrupted and text == deltas(events) != "")

    def figures(self) -> list[Figure]:
        """Counts of what was tried, and of each kind of fault, which must be 0."""
        return [
            tried("servers drained", len(self.exits)),
            tried("streams open during the drains", self.streams),
            Figure(REPORTED, len(self.not_serving), "", "=", len(self.exits)),
            Figure("from SIGTERM to NOT_SERVING, longest", max(self.not_serving, default=NOT_MEASURED), "ms", "≤", 100),
            Figure("from SIGTERM to exit, longest", max(self.exits, default=NOT_MEASURED), "s"),
            Figure("new turns refused", self.refused),
            *(Figure(kind, self.faults[kind], "", "=", 0) for kind in FAULTS),
        ]


async def drain(run: Run, *, rounds: int) -> list[Figure]:
    """Drains servers under load; counts what did not end as promised."""
    async with FakeMessagesApi() as api:
        upstream = {"anthropic_api_key": "sk-torture", "anthropic_base_url": api.base_url}
        async with Zygote(run.directory, port=free_port(), shutdown_grace_seconds=GRACE_SECONDS, **upstream) as zygote:
            drains = Drain(zygote, mutant=run.mutant)
            api.default = drains.answer
            life = await drains.start()
            for _ in range(rounds):
                life = await drains.round(life)
            await zygote.kill()
    return drains.figures()
