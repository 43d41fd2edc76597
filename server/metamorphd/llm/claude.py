"""Claude, through the `anthropic` SDK. This is the only module that imports the SDK."""

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import structlog

from metamorphd.errors import UpstreamInterrupted, UpstreamStalled
from metamorphd.llm.answers import count_in, event_of, refuse_documents, start_of
from metamorphd.llm.event_stream import EventStream
from metamorphd.llm.failures import Failures, RejectedInReply, retry_after
from metamorphd.llm.interface import LARGE_TEXT, Prompt, ReplyEvent
from metamorphd.llm.reply import Reply
from metamorphd.llm.request import Request, count_request, reply_request, without_thinking

# Importing anthropic takes a second or more and tens of megabytes, so the server begins to serve meanwhile.
if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from httpx2 import Response

CONNECT_SECONDS = 10.0
# The SDK would wait for the whole `retry-after`, even hours. Above this limit the call fails with the delay instead.
LONGEST_RETRY_WAIT = 20.0
# Some gateways leave out the last event of a reply, or hold the connection open instead.
LAST_EVENT_SECONDS = 2.0
# Makes the SDK return a response whose bytes have not been read, like its own `with_streaming_response`.
STREAMED = {"X-Stainless-Raw-Response": "stream"}

logger = structlog.get_logger(__name__)


class Claude:
    """Client of the Messages API. `stall_seconds` limits silence, `max_retries` the retries of a call.

    If a call would read more than `compact_above` tokens, earlier messages are summarized first. 0 turns this off.

    The SDK retries a call only before its first event: after 408, 409, 429, 5xx, or a refused or lost connection.
    Silence is not retried, because each attempt could take `stall_seconds`.
    """

    source = "claude"
    charges = True

    def __init__(
        self, *, api_key: str, base_url: str | None, max_retries: int, stall_seconds: float, compact_above: int
    ) -> None:
        self._compact_above = compact_above
        self._api_key = api_key
        self._base_url = base_url
        self._max_retries = max_retries
        self._stall_seconds = stall_seconds

    async def __aenter__(self) -> Self:
        self._opening = asyncio.create_task(self._open())
        return self

    async def opened(self) -> None:
        # A call that is cancelled must not cancel it.
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        anthropic = await asyncio.to_thread(importlib.import_module, "anthropic")
        httpx2 = importlib.import_module("httpx2")
        timeout = httpx2.Timeout(self._stall_seconds, connect=CONNECT_SECONDS)
        self._streamed = anthropic.AsyncAPIResponse[Any]
        self._httpx2 = httpx2
        self._failures = Failures(anthropic=anthropic, httpx2=httpx2)
        self._client: AsyncAnthropic = anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=timeout,
            # Costs less per packet than the default client: docs/decisions/0014-aiohttp-under-the-sdk.md.
            # A redirect would send the key and the conversation to wherever it points.
            http_client=anthropic.DefaultAioHttpClient(
                timeout=timeout,
                follow_redirects=False,
                event_hooks={"response": [_refuse_long_waits, self._limit_error]},
            ),
            middleware=[self._failures.end_at_silence],
        )

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._opening
        except Exception:
            # `opened` raises it. There is no client to close.
            return
        await self._client.close()

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        await self.opened()
        most, span = prompt.options.max_output_tokens, prompt.span
        # The SDK sends, retries and raises. The stream is read here, with a third of the SDK's own work.
        sending = self._answer(
            "/v1/messages",
            partial(reply_request, compact_above=self._compact_above),
            prompt,
        )
        # A reply takes minutes, and the prompt is not needed once it is sent.
        del prompt
        request: Request | None
        response, request = await sending
        reply, stream = Reply(prefix=request.prefix, max_output_tokens=most), EventStream()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(response.close)
            stack.callback(reply.describe, span)
            refuse_documents(response)
            try:
                chunks = await stack.enter_async_context(aclosing(_until_whole(response.iter_bytes(), reply)))
                async for chunk in chunks:
                    events, failure = _read(chunk, stream, reply)
                    # What fails before its reply begins costs nothing.
                    if reply.begun or events:
                        yield [reply.usage, *events]
                    if reply.complete:
                        return
                    if reply.blocks:
                        # It has the ids of thousands of messages.
                        request = None
                    if isinstance(failure, RejectedInReply):
                        raise failure.error(request)
                    if failure is not None:
                        raise failure
            except self._failures.all as exc:
                if not reply.whole:
                    raise self._failures.translate(exc, answered=True) from exc
            stream.end()
            yield [reply.usage, *_ended(reply)]

    async def count_tokens(self, prompt: Prompt) -> int:
        await self.opened()
        # Read here, because the SDK would read a page of any size, and does not check that a count is a number.
        response, request = await self._answer("/v1/messages/count_tokens", count_request, prompt)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(response.close)
            try:
                # Each byte ends the silence, and nothing else limits how many may come one by one.
                async with asyncio.timeout(self._stall_seconds):
                    return await count_in(response, request)
            except TimeoutError:
                raise UpstreamStalled from None
            except self._failures.all as exc:
                raise self._failures.translate(exc, answered=False) from exc

    async def _limit_error(self, response: Any) -> None:
        """Reads what an error or a redirect says. The SDK would read all of it, however long and late."""
        if response.is_success:
            return
        body, stream = b"", response.stream
        try:
            async with asyncio.timeout(self._stall_seconds):
                body = await start_of(stream)
        except (TimeoutError, self._httpx2.HTTPError):
            # Its status says enough.
            pass
        finally:
            await stream.aclose()
        response.stream = self._httpx2.ByteStream(body)

    async def _answer(self, path: str, build: Callable[[Prompt], Request], prompt: Prompt) -> tuple[Any, Request]:
        """Sends a prompt. Returns the response, whose bytes have not been read, and the request, without its body.

        If thinking of earlier replies is rejected, the prompt is sent once more without it: whatever the provider
        holds against it, the conversation can go on.
        """
        request = await _built(build, prompt)
        kept = [prompt] if request.thinks else []
        del prompt
        while True:
            # Outside the try block, which would blame the provider for an error of ours.
            length = {"Content-Length": str(await request.body.size())}
            try:
                response = await self._client.post(
                    path,
                    cast_to=self._streamed,
                    content=request.body,
                    options={"headers": request.headers | STREAMED | length},
                )
            except self._failures.all as exc:
                if not kept or not self._failures.rejects_thinking(exc):
                    raise request.body.failure or self._failures.rejection(exc, request) from exc
                logger.warning("the thinking of earlier replies was rejected; sending again without it")
            else:
                return response, request
            finally:
                # The SDK keeps a reference to it as long as the reply is read.
                request.body.clear()
            request = await _built(build, without_thinking(kept.pop()))


async def _built(build: Callable[[Prompt], Request], prompt: Prompt) -> Request:
    """Returns the call for a prompt. One that takes milliseconds is built on a thread."""
    return await asyncio.to_thread(build, prompt) if prompt.text_bytes > LARGE_TEXT else build(prompt)


async def _until_whole(chunks: AsyncIterator[bytes], reply: Reply) -> AsyncGenerator[bytes]:
    """Yields the chunks of a stream. Ends LAST_EVENT_SECONDS after the reply has all but its last event."""
    deadline, blocks = None, 0
    while True:
        if not reply.whole:
            deadline = None
        elif deadline is None or reply.blocks > blocks:
            blocks = reply.blocks
            deadline = asyncio.get_running_loop().time() + LAST_EVENT_SECONDS
        waiting = asyncio.timeout_at(deadline)
        try:
            async with waiting:
                chunk = await anext(chunks, None)
        except TimeoutError:
            if waiting.expired():
                return
            raise
        if chunk is None:
            return
        yield chunk


def _ended(reply: Reply) -> list[ReplyEvent]:
    """Returns the last events of a reply whose stream has ended. Raises UpstreamInterrupted if it is not complete."""
    if not reply.whole:
        raise UpstreamInterrupted
    try:
        return list(reply.end())
    except ValueError as exc:
        raise UpstreamInterrupted from exc


def _read(chunk: bytes, stream: EventStream, reply: Reply) -> tuple[list[ReplyEvent], Exception | None]:
    """Returns the events that end in a chunk, up to one that cannot be read, and the exception that it raised."""
    events: list[ReplyEvent] = []
    try:
        for data in stream.feed(chunk):
            events.extend(reply.read(event_of(data)))
    except Exception as exc:
        return events, exc
    return events, None


async def _refuse_long_waits(response: "Response") -> None:
    """Sets the headers that the SDK obeys so that it does not wait for long."""
    wait = retry_after(response)
    # Only values that we can parse are passed on to the SDK, which would wait 49 days for `inf`.
    for name in ("retry-after-ms", "retry-after"):
        response.headers.pop(name, None)
    if wait is not None:
        response.headers["retry-after"] = f"{wait:.3f}"
        if wait > LONGEST_RETRY_WAIT:
            response.headers["x-should-retry"] = "false"
