"""A fake Messages API over HTTP on loopback, with streaming, whose behaviour a test chooses.

`python -m tests.support.fakes.messages_api --port 0 --words N` prints its port and answers every request with N words,
one per event, until its standard input ends. With `--random` a reply has 1 to N words and uneven pauses. With `--stamp`
each word is the time at which it was sent, in nanoseconds of the monotonic clock, shared by all processes of a machine.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Self

import uvloop

from tests.support.fakes.replies import STAMP, Behaviour, Count, Hangup, Raw, Refusal, Reply, Silence, parts, sse

LARGEST_BODY = 64 * 1024 * 1024
RANDOM = random.SystemRandom()
COUNT_PATH = "/v1/messages/count_tokens"


@dataclass(frozen=True, eq=False)
class Received:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeMessagesApi:
    """Serves on loopback, on a free port if `port` is 0. Requests take behaviours from `script` first, then `default`,
    which may be a function of the request. `answering` holds the requests whose response is not complete."""

    def __init__(self, default: Behaviour | Callable[[Received], Behaviour] | None = None, *, port: int = 0) -> None:
        self.default = default
        self.port = port
        self.script: deque[Behaviour] = deque()
        self.requests: list[Received] = []
        self.answering: list[Received] = []
        self.open_streams = 0
        self._asked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks)

    @property
    def base_url(self) -> str:
        """Returns the value for ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        try:
            while (received := await _read(reader)) is not None:
                self.requests.append(received)
                self.answering.append(received)
                self._asked.set()
                try:
                    await self._answer(received, reader, writer)
                finally:
                    self.answering.remove(received)
                    if not self.answering:
                        self._asked.clear()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behaviour = self._behaviour(received)
        key = received.headers.get("x-api-key") or received.headers.get("authorization", "").removeprefix("Bearer ")
        if key in ("", "wrong"):
            behaviour = Refusal(401, "authentication_error")
        elif "anthropic-version" not in received.headers or bool(received.body.get("stream")) is (
            received.path == COUNT_PATH
        ):
            behaviour = Refusal(400, "invalid_request_error")
        match behaviour:
            case Refusal():
                writer.write(_error_response(behaviour))
                await writer.drain()
            case Count(tokens):
                writer.write(_response(200, {"input_tokens": tokens}))
                await writer.drain()
            case Hangup():
                writer.transport.abort()
            case Raw():
                await _unless_left(reader, _send(behaviour, writer))
            case Silence():
                await _unless_left(reader, asyncio.Event().wait())
            case Reply():
                self.open_streams += 1
                self._idle.clear()
                try:
                    await _unless_left(reader, self._stream(behaviour, received, writer))
                finally:
                    self.open_streams -= 1
                    if not self.open_streams:
                        self._idle.set()

    def _behaviour(self, received: Received) -> Behaviour:
        if self.script:
            return self.script.popleft()
        if self.default is None:
            return _echo(received, counting=received.path == COUNT_PATH)
        if received.path == COUNT_PATH and isinstance(self.default, Reply):
            return _echo(received, counting=True)
        return self.default(received) if callable(self.default) else self.default

    async def _stream(self, reply: Reply, received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for count, part in enumerate(parts(reply, str(received.body.get("model"))), start=-1):
            if 0 <= count < len(reply.chunks):
                if reply.hold is not None and count == reply.hold_after:
                    await reply.hold.wait()
                if reply.delay:
                    await asyncio.sleep(reply.delay * (RANDOM.uniform(0, 2) if reply.uneven else 1))
            writer.write(part.replace(STAMP, b"%020d" % time.monotonic_ns()) if reply.stamped else part)
            await writer.drain()
        match reply.ending:
            case "drop" | "tear":
                # Waits for written data to arrive, because a reset would discard it.
                await asyncio.sleep(0.05)
                writer.transport.abort()
            case "stall":
                await asyncio.Event().wait()
            case _:
                writer.write(b"0\r\n\r\n")
                await writer.drain()

    async def until_answering(self) -> None:
        """Returns once a request is being answered."""
        async with asyncio.timeout(5):
            await self._asked.wait()

    async def until_idle(self) -> None:
        """Returns once no reply is being streamed."""
        async with asyncio.timeout(5):
            await self._idle.wait()


async def _send(raw: Raw, writer: asyncio.StreamWriter) -> None:
    headers = [*raw.headers, ("transfer-encoding", "chunked")]
    headers += [("content-type", raw.content_type)] if raw.content_type else []
    lines = [f"HTTP/1.1 {raw.status} Answered", *(f"{name}: {value}" for name, value in headers), "", ""]
    writer.write("\r\n".join(lines).encode() + _chunk(raw.body))
    await writer.drain()
    for part in raw.later:
        await asyncio.sleep(raw.pause)
        writer.write(_chunk(part))
        await writer.drain()
    match raw.ending:
        case "end":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        case "drop":
            # Waits for written data to arrive, because a reset would discard it.
            await asyncio.sleep(0.05)
            writer.transport.abort()
        case "ping":
            while True:
                await asyncio.sleep(0.01)
                writer.write(_chunk(sse({"type": "ping"})))
        case _:
            await asyncio.Event().wait()


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


async def _unless_left(reader: asyncio.StreamReader, answer: Coroutine[Any, Any, Any]) -> None:
    """Runs `answer` to its end. Raises ConnectionResetError if the client disconnects first."""
    answering, left = asyncio.create_task(answer), asyncio.create_task(reader.read(1))
    done, waiting = await asyncio.wait({answering, left}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    # Retrieves both results, so that asyncio does not report an unretrieved exception.
    await asyncio.gather(answering, left, return_exceptions=True)
    if left in done:
        raise ConnectionResetError
    await answering


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    assert length <= LARGEST_BODY
    return Received(first.split(" ")[1], headers, json.loads(await reader.readexactly(length) or b"{}"))


def _echo(received: Received, *, counting: bool) -> Reply | Count:
    if counting:
        return Count(len(json.dumps(received.body["messages"]).split()))
    last = received.body["messages"][-1]["content"]
    text = last if isinstance(last, str) else last[-1].get("text", last[-1]["type"])
    return Reply(chunks=("You ", "said: ", text))


def _error_response(refusal: Refusal) -> bytes:
    error: dict[str, object] = {"type": refusal.error_type, "message": refusal.message}
    if refusal.error_code:
        error["details"] = {"error_code": refusal.error_code}
    return _response(refusal.status, {"type": "error", "error": error, "request_id": "req_1"}, refusal.headers)


def _response(status: int, payload: dict[str, object], more: tuple[tuple[str, str], ...] = ()) -> bytes:
    body = json.dumps(payload).encode()
    headers = (*more, ("content-type", "application/json"), ("content-length", str(len(body))))
    lines = [f"HTTP/1.1 {status} Answered", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + body


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 is a free one")
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--stamp", action="store_true")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="between words")
    parser.add_argument("--random", action="store_true", help="from 1 to N words, and pauses of any length")
    arguments = parser.parse_args()
    words = tuple(f"{STAMP.decode()} " if arguments.stamp else f"word{number} " for number in range(arguments.words))
    reply = Reply(words, delay=arguments.delay_ms / 1000, stamped=arguments.stamp)

    def some_words(_: Received) -> Reply:
        return replace(reply, chunks=words[: RANDOM.randint(1, len(words))], uneven=True)

    async with FakeMessagesApi(some_words if arguments.random else reply, port=arguments.port) as api:
        sys.stdout.write(f"{api.port}\n")
        sys.stdout.flush()
        # Serves until the parent process closes the pipe.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
