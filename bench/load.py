"""Loads a server: `python -m bench.load KIND TARGET --pid PID`, one round for each line on standard input.

KIND is what each of the workers does all the time. `get`, `create`: calls GetSession, CreateSession. `send`: sends a
message and reads the reply. `first`: the same, and measures the first delta only. `sdk`, `first-sdk`: the same through
the SDK, from the Messages API. `slow`: sends messages whose replies take ten seconds, of words that are time stamps.
PID is the server's process, whose CPU time is measured. What a round measured is printed as a line of JSON.

A load that fails says why in one line on standard error, and exits with 1.
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import grpc
import psutil
import uvloop
from metamorph_client.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    CreateSessionResponse,
    GetSessionRequest,
    SendMessageRequest,
    SendMessageResponse,
)
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock

CHAT = "/metamorph.chat.v1.ChatService/"
CHANNELS = 8
WARM_UP = 0.5
REPLY_SECONDS = 10.0
QUESTION = "Hello, please answer in five hundred words."

# Does one thing. Returns how much it did, and the seconds that are to be measured.
Work = Callable[[], Awaitable[tuple[int, float]]]


@dataclass
class Slow:
    """The words and deltas of slow replies within a window: the nanoseconds that each word took, and a count."""

    lags: list[int] = field(default_factory=list)
    deltas: int = 0


class Calls:
    """Calls over a few channels as one caller."""

    def __init__(self, target: str, stack: AsyncExitStack) -> None:
        self._target = target
        self._stack = stack
        self._channels: list[grpc.aio.Channel] = []
        self._metadata = (("authorization", f"Bearer {os.environ['BENCH_TOKEN']}"),)

    async def get(self, number: int) -> Work:
        return self._unary(await self._channel(number), "GetSession", await self._get_request(number))

    async def create(self, number: int) -> Work:
        return self._unary(await self._channel(number), "CreateSession", CreateSessionRequest().SerializeToString())

    async def send(self, number: int) -> Work:
        return await self._send(number, first_only=False)

    async def first(self, number: int) -> Work:
        return await self._send(number, first_only=True)

    async def slow(self, number: int) -> Callable[[float, float], Awaitable[Slow]]:
        """Returns work that sends one message after the other until the second of two moments, and measures between
        both."""
        send, request = await self._sending(number)

        async def work(since: float, until: float) -> Slow:
            measured = Slow()
            while time.monotonic() < until:
                async for response in send(request, metadata=self._metadata):
                    now = time.monotonic()
                    event = SendMessageResponse.FromString(response).event
                    # The last event repeats the whole reply.
                    if event.HasField("text_delta"):
                        measured.deltas += since < now < until
                        stamps = map(int, event.text_delta.text.split())
                        measured.lags += [int(now * 1e9) - at for at in stamps if since * 1e9 < at < until * 1e9]
                    if now > until:
                        break
            return measured

        return work

    async def _channel(self, number: int) -> grpc.aio.Channel:
        # Channels with equal options would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if number < CHANNELS:
            channel = grpc.aio.insecure_channel(self._target, options=options)
            self._channels.append(await self._stack.enter_async_context(channel))
        return self._channels[number % CHANNELS]

    async def _get_request(self, number: int) -> bytes:
        create: Any = self._channels[number % CHANNELS].unary_unary(CHAT + "CreateSession")
        answer = await create(CreateSessionRequest().SerializeToString(), metadata=self._metadata)
        created = CreateSessionResponse.FromString(answer)
        return GetSessionRequest(session_id=created.session.session_id).SerializeToString()

    def _unary(self, channel: grpc.aio.Channel, method: str, request: bytes) -> Work:
        # Bytes in and out: the load must cost less than the server.
        call: Any = channel.unary_unary(CHAT + method)

        async def work() -> tuple[int, float]:
            began = time.perf_counter()
            await call(request, metadata=self._metadata)
            return 1, time.perf_counter() - began

        return work

    async def _sending(self, number: int) -> tuple[Any, bytes]:
        """SendMessage, and a request for it."""
        channel = await self._channel(number)
        create: Any = channel.unary_unary(CHAT + "CreateSession")
        answer = await create(CreateSessionRequest().SerializeToString(), metadata=self._metadata)
        # Each message is a new root: a conversation that grows would be another measurement.
        request = SendMessageRequest(
            session_id=CreateSessionResponse.FromString(answer).session.session_id,
            content=[ContentBlock(text=TextBlock(text=QUESTION))],
            parent_message_id="",
        ).SerializeToString()
        return channel.unary_stream(CHAT + "SendMessage"), request

    async def _send(self, number: int, *, first_only: bool) -> Work:
        send, request = await self._sending(number)

        async def work() -> tuple[int, float]:
            began, words, first = time.perf_counter(), 0, 0.0
            async for response in send(request, metadata=self._metadata):
                event = SendMessageResponse.FromString(response).event
                if event.HasField("text_delta"):
                    first = first or time.perf_counter() - began
                    words += event.text_delta.text.count(" ")
            return words, first if first_only else time.perf_counter() - began

        return work


class Sdk:
    """The same through the SDK, straight from the Messages API. Imported here, as that takes seconds."""

    def __init__(self, target: str, stack: AsyncExitStack) -> None:
        anthropic = importlib.import_module("anthropic")
        self._client = anthropic.AsyncAnthropic(api_key="sk-bench", base_url=f"http://{target}")
        stack.push_async_callback(self._client.close)

    async def sdk(self, number: int) -> Work:
        return self._work(first_only=False)

    async def first_sdk(self, number: int) -> Work:
        return self._work(first_only=True)

    def _work(self, *, first_only: bool) -> Work:
        async def work() -> tuple[int, float]:
            began, words, first = time.perf_counter(), 0, 0.0
            stream = await self._client.messages.create(
                model="claude-sonnet-5-5",
                max_tokens=1000,
                messages=[{"role": "user", "content": QUESTION}],
                stream=True,
            )
            async for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    first = first or time.perf_counter() - began
                    words += event.delta.text.count(" ")
            return words, first if first_only else time.perf_counter() - began

        return work


class Cpu:
    """The CPU time of a process from its making on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._total()

    @property
    def seconds(self) -> float:
        return self._total() - self._before

    def _total(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


async def _measure(arguments: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        source: Any = (Sdk if "sdk" in arguments.kind else Calls)(arguments.target, stack)
        make = getattr(source, arguments.kind.replace("-", "_"))
        works = [await make(number) for number in range(arguments.in_flight)]
        if arguments.kind != "slow":
            await _run(works, WARM_UP)
        measure = _slow if arguments.kind == "slow" else _steady
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(works, seconds=arguments.seconds, pid=arguments.pid)), flush=True)


async def _steady(works: list[Work], *, seconds: float, pid: int) -> dict[str, float]:
    """Measures what the works do, one after the other, all at the same time."""
    cpu = Cpu(pid)
    done, took, measured = await _run(works, seconds)
    return _figures(done / took, measured) | {"cpu_us": cpu.seconds / done * 1e6}


async def _slow(works: list[Any], *, seconds: float, pid: int) -> dict[str, float]:
    """Measures once as many streams are open as there are works. They begin one after the other."""
    began = time.monotonic()
    since, until = began + REPLY_SECONDS, began + REPLY_SECONDS + seconds

    async def begin(number: int, work: Any) -> Slow:
        await asyncio.sleep(REPLY_SECONDS * number / len(works))
        measured: Slow = await work(since, until)
        return measured

    async def cpu_seconds() -> float:
        await asyncio.sleep(since - time.monotonic())
        cpu = Cpu(pid)
        await asyncio.sleep(until - time.monotonic())
        return cpu.seconds

    using = asyncio.create_task(cpu_seconds())
    measured = await asyncio.gather(*(begin(number, work) for number, work in enumerate(works)))
    used = await using
    lags = [lag / 1e9 for slow in measured for lag in slow.lags]
    deltas = sum(slow.deltas for slow in measured)
    return _figures(len(lags) / seconds, lags) | {
        "words_a_delta": len(lags) / deltas,
        "cpu_us_a_word": used / len(lags) * 1e6,
        "cpu_us_a_delta": used / deltas * 1e6,
    }


def _figures(rate: float, seconds: list[float]) -> dict[str, float]:
    return {"per_second": rate, "p50_ms": median(seconds) * 1e3, "p99_ms": quantiles(seconds, n=100)[98] * 1e3}


async def _run(works: list[Work], seconds: float) -> tuple[int, float, list[float]]:
    began = time.perf_counter()
    done, measured = 0, []

    async def repeat(work: Work) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            much, took = await work()
            done += much
            measured.append(took)

    await asyncio.gather(*(repeat(work) for work in works))
    return done, time.perf_counter() - began, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["get", "create", "send", "sdk", "first", "first-sdk", "slow"])
    parser.add_argument("target")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    try:
        uvloop.run(_measure(arguments))
    except grpc.aio.AioRpcError as error:
        # Its own text has many lines.
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
