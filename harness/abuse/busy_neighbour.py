"""A caller who uses everything: `python -m harness.abuse.busy_neighbour TARGET TOKEN`.

Creates, lists and searches sessions, sends messages and follows turns, all at the same time and each one after the
other. For each line on standard input it prints what it has measured since the line before, as a line of JSON: by
operation the milliseconds of each call, in `gap` how much later than the model's pace each delta of a turn came, and in
`failed` the calls that failed, as text. What has not ended, a call or a gap, counts with its length so far: otherwise
nothing would be measured of a server that stands still.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb

from tests.support.caller import Caller, send_request
from tests.support.garbage import frozen

PAUSE_SECONDS = 0.03
# Turns take seconds, and go on when their caller has seen the first event.
SEND_PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 30.0
# Between the words of the model.
PACE_SECONDS = 0.05
WORD = "quokkas"
TEXT = f"Where are the {WORD}?"


class Neighbour:
    """Measures the calls of one vault."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._measured: defaultdict[str, list[float]] = defaultdict(list)
        self._failed: list[str] = []
        # When what has not ended began, by operation, in seconds.
        self._calling: dict[str, float] = {}
        self._delta: float | None = None

    def taken(self) -> str:
        """Returns what was measured since the last time, as JSON."""
        now = time.perf_counter()
        for name, began in self._calling.items():
            self._measured[name].append((now - began) * 1000)
        if self._delta is not None:
            self._measured["gap"].append((now - self._delta - PACE_SECONDS) * 1000)
        taken = json.dumps({**self._measured, "failed": self._failed})
        self._measured.clear()
        self._failed.clear()
        return taken

    async def prepared(self) -> str:
        """Returns a session with a turn, whose first may take seconds: the server imports what it needs for it."""
        session_id = (await self._caller.create_session()).session_id
        await self._caller.send(session_id, TEXT)
        return session_id

    async def busy(self, session_id: str) -> None:
        """Calls until it is cancelled."""
        caller = self._caller
        get = pb.GetSessionRequest(session_id=session_id)
        search = pb.SearchMessagesRequest(query=WORD)
        messages = pb.ListMessagesRequest(session_id=session_id)
        chat = caller.chat
        async with asyncio.TaskGroup() as group:
            for name, method, request in (
                ("CreateSession", chat.CreateSession, pb.CreateSessionRequest()),
                ("GetSession", chat.GetSession, get),
                ("ListSessions", chat.ListSessions, pb.ListSessionsRequest()),
                ("ListMessages", chat.ListMessages, messages),
                ("SearchMessages", chat.SearchMessages, search),
            ):
                group.create_task(self._repeat(name, self._unary(method, request), PAUSE_SECONDS))
            group.create_task(self._repeat("SendMessage", self._send, SEND_PAUSE_SECONDS))
            group.create_task(self._repeat("a followed turn", self._follow, PAUSE_SECONDS))

    async def _repeat(self, name: str, call: Callable[[], Awaitable[float]], pause: float) -> None:
        while True:
            self._calling[name] = time.perf_counter()
            try:
                milliseconds = await call() * 1000
                # Found anew after the call: `taken` begins new lists.
                self._measured[name].append(milliseconds)
            except grpc.aio.AioRpcError as error:
                self._failed.append(f"{name}: {error.code().name}: {error.details()}")
            finally:
                del self._calling[name]
            await asyncio.sleep(pause)

    def _unary(self, method: Callable[..., Awaitable[object]], request: object) -> Callable[[], Awaitable[float]]:
        async def call() -> float:
            began = time.perf_counter()
            await method(request, metadata=self._caller.metadata, timeout=TIMEOUT_SECONDS)
            return time.perf_counter() - began

        return call

    async def _send(self) -> float:
        """Returns the seconds until the first event."""
        session_id = (await self._caller.create_session()).session_id
        began = time.perf_counter()
        events = self._caller.start(session_id, TEXT, timeout=TIMEOUT_SECONDS)
        await events.next()
        took = time.perf_counter() - began
        events.call.cancel()
        return took

    async def _follow(self) -> float:
        """Returns the seconds that a turn took; measures how late its deltas came. A word is when it was sent."""
        session_id = (await self._caller.create_session()).session_id
        request = send_request(session_id, TEXT)
        began = time.perf_counter()
        sent_before = 0.0
        events = self._caller.chat.SendMessage(request, metadata=self._caller.metadata, timeout=TIMEOUT_SECONDS)
        try:
            async for response in events:
                if response.event.HasField("text_delta"):
                    now, sent = time.perf_counter(), int(response.event.text_delta.text.split()[-1]) / 1e9
                    if self._delta is not None:
                        self._measured["gap"].append(((now - self._delta) - (sent - sent_before)) * 1000)
                    self._delta, sent_before = now, sent
        finally:
            self._delta = None
        return time.perf_counter() - began


async def main() -> None:
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        neighbour = Neighbour(Caller(channel, [("authorization", f"Bearer {sys.argv[2]}")]))
        # Nothing is printed before: what is measured first is of a server that is ready, and of all operations.
        session_id = await neighbour.prepared()
        with frozen():
            busy = asyncio.create_task(neighbour.busy(session_id))
            while await asyncio.to_thread(sys.stdin.readline):
                if busy.done():
                    busy.result()
                sys.stdout.write(neighbour.taken() + "\n")
                sys.stdout.flush()
            busy.cancel()


if __name__ == "__main__":
    asyncio.run(main())
