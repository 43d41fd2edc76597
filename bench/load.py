"""A process that loads a target and prints what it measured, as JSON.

`python -m bench.load KIND TARGET --in-flight N --seconds S`, KIND one of get, create, send, sdk, first, first-sdk,
slow (replies
whose words say when they were sent, ten seconds long).
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median, quantiles
from typing import Any

import grpc
import uvloop
from metamorph.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    CreateSessionResponse,
    GetSessionRequest,
    SendMessageRequest,
    SendMessageResponse,
)
from metamorph.chat.v1.message_pb2 import ContentBlock, TextBlock

CHAT = "/metamorph.chat.v1.ChatService/"
CHANNELS = 4
WARM_UP = 0.5
REPLY_SECONDS = 10.0
QUESTION = "Hello, please answer in five hundred words."

# Does one thing; (how much was done, seconds of it that are told).
Work = Callable[[], Awaitable[tuple[int, float]]]


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

    async def slow(self, number: int) -> Callable[[float, float], Awaitable[list[int]]]:
        """Nanoseconds that each word took which was sent between two moments; one reply follows the other."""
        send, request = await self._sending(number)

        async def work(since: float, until: float) -> list[int]:
            lags: list[int] = []
            while time.monotonic() < until:
                async for response in send(request, metadata=self._metadata):
                    now = time.monotonic_ns()
                    # The last event repeats the whole reply.
                    delta = SendMessageResponse.FromString(response).event.text_delta
                    stamps = map(int, delta.text.split())
                    lags += [now - stamp for stamp in stamps if since * 1e9 < stamp < until * 1e9]
                    if now > until * 1e9:
                        break
            return lags

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
        try:
            answer = await create(CreateSessionRequest().SerializeToString(), metadata=self._metadata)
        except grpc.aio.AioRpcError:
            # The echo creates nothing and answers whatever is asked.
            return GetSessionRequest(session_id=f"ses_{uuid.uuid4().hex}").SerializeToString()
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


async def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        source: Any = (Sdk if "sdk" in arguments.kind else Calls)(arguments.target, stack)
        make = getattr(source, arguments.kind.replace("-", "_"))
        works = [await make(number) for number in range(arguments.in_flight)]
        if arguments.kind == "slow":
            return await _slow(works, seconds=arguments.seconds)
        await _run(works, WARM_UP)
        done, seconds, told = await _run(works, arguments.seconds)
    return _told(done / seconds, told)


async def _slow(works: list[Any], *, seconds: float) -> dict[str, float]:
    """The lag of words, once as many streams are open as there are works: they begin one after the other."""
    began = time.monotonic()
    since, until = began + REPLY_SECONDS, began + REPLY_SECONDS + seconds

    async def begin(number: int, work: Any) -> list[int]:
        await asyncio.sleep(REPLY_SECONDS * number / len(works))
        lags: list[int] = await work(since, until)
        return lags

    measured = await asyncio.gather(*(begin(number, work) for number, work in enumerate(works)))
    lags = [lag / 1e9 for told in measured for lag in told]
    return _told(len(lags) / seconds, lags)


def _told(rate: float, seconds: list[float]) -> dict[str, float]:
    return {"per_second": rate, "p50_ms": median(seconds) * 1e3, "p99_ms": quantiles(seconds, n=100)[98] * 1e3}


async def _run(works: list[Work], seconds: float) -> tuple[int, float, list[float]]:
    began = time.perf_counter()
    done, told = 0, []

    async def repeat(work: Work) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            much, took = await work()
            done += much
            told.append(took)

    await asyncio.gather(*(repeat(work) for work in works))
    return done, time.perf_counter() - began, told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["get", "create", "send", "sdk", "first", "first-sdk", "slow"])
    parser.add_argument("target")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    sys.stdout.write(json.dumps(uvloop.run(_measure(parser.parse_args()))))
