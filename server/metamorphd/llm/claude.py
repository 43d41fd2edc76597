"""Claude through the `anthropic` SDK, whose only importer this is."""

import asyncio
import importlib
import json
import operator
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import orjson

from metamorphd.errors import (
    DomainError,
    UpstreamInterrupted,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpendLimit,
    UpstreamStalled,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from metamorphd.llm.event_stream import EventStream
from metamorphd.llm.interface import Prompt, ReplyEvent
from metamorphd.llm.messages_api import Reply, count_request_of, request_of

# Importing anthropic takes seconds and tens of megabytes: it happens on entering, once health can be asked already.
if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncAnthropic
    from httpx2 import Response

CONNECT_SECONDS = 10.0
# The SDK would wait as long as `retry-after` says, even for hours; beyond this the caller is told instead.
LONGEST_RETRY_WAIT = 20.0
_ERROR_TYPE = re.compile(r"[a-z_]{1,64}")
SPEND_CODES = {"enforced_spend_limit_reached", "contract_spend_limit_reached"}
_SPENT = re.compile(r"You have reached your specified (workspace )?API usage limits|Your credit balance is too low")


class Claude:
    """The Messages API. `stall_seconds` is the longest silence, `max_retries` how often a call is tried again.

    A call that would read more than `compact_above` tokens has what came before summarised first; 0 never does.

    The SDK repeats a call only before its first event: after 408, 409, 429, 5xx, or a connection refused or lost.
    Silence is final: repeated, it would last `stall_seconds` each time.
    """

    source = "claude"

    def __init__(
        self, *, api_key: str, base_url: str | None, max_retries: int, stall_seconds: float, compact_above: int
    ) -> None:
        self._compact_above = compact_above
        self._api_key = api_key
        self._base_url = base_url
        self._max_retries = max_retries
        self._stall_seconds = stall_seconds

    async def __aenter__(self) -> Self:
        anthropic = await asyncio.to_thread(importlib.import_module, "anthropic")
        httpx2 = importlib.import_module("httpx2")
        timeout = httpx2.Timeout(self._stall_seconds, connect=CONNECT_SECONDS)
        self._errors = _Errors(anthropic=anthropic, httpx2=httpx2)
        self._client: AsyncAnthropic = anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=timeout,
            # Cheaper per packet than the default client: docs/decisions/0014-aiohttp-under-the-sdk.md.
            http_client=anthropic.DefaultAioHttpClient(timeout=timeout, event_hooks={"response": [_refuse_long_waits]}),
            middleware=[self._errors.end_at_silence],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        answered = False
        # Not within: a mistake of ours would be blamed on the provider.
        request = request_of(prompt, compact_above=self._compact_above)
        reply, stream = Reply(), EventStream()
        async with AsyncExitStack() as stack:
            try:
                # The SDK sends, repeats and refuses; the stream is read here, for a third of the work of its own way.
                response = await stack.enter_async_context(
                    self._client.messages.with_streaming_response.create(**request, stream=True)
                )
                answered = True
                async for chunk in response.iter_bytes():
                    events, failure = _read(chunk, stream, reply)
                    if events:
                        yield events
                    if failure is not None:
                        raise failure
            except self._errors.all as exc:
                raise self._errors.translate(exc, answered=answered) from exc
            if not reply.whole:
                raise UpstreamInterrupted

    async def count_tokens(self, prompt: Prompt) -> int:
        request = count_request_of(prompt)
        try:
            counted = await self._client.messages.count_tokens(**request)
            # Checked here: the SDK lets through what is no number.
            return operator.index(counted.input_tokens)
        except self._errors.all as exc:
            raise self._errors.translate(exc, answered=False) from exc


class _Errors:
    """What the SDK and the HTTP client under it raise, as our errors. The provider's own text goes no further."""

    def __init__(self, *, anthropic: Any, httpx2: Any) -> None:
        self._anthropic = anthropic
        self._httpx2 = httpx2
        # The built-in ones: a stream that is no JSON, or whose events do not fit together or hold other types.
        self.all = (anthropic.APIError, httpx2.HTTPError, ValueError, KeyError, AttributeError, TypeError)

    async def end_at_silence(self, request: Any, call_next: Any) -> Any:
        """The SDK's middleware, around each attempt."""
        try:
            return await call_next(request)
        except self._anthropic.APITimeoutError as exc:
            if isinstance(exc.__cause__, (self._httpx2.ReadTimeout, self._httpx2.WriteTimeout)):
                # Not from `exc`: the SDK repeats whatever has an error of its own among its causes.
                raise UpstreamStalled from exc.__cause__
            raise

    def translate(self, exc: Exception, *, answered: bool) -> DomainError:
        """`answered`: whether the reply had begun; then nothing is to be blamed on the request."""
        if isinstance(exc, (self._anthropic.APITimeoutError, self._httpx2.TimeoutException)):
            never_connected = isinstance(exc.__cause__, (self._httpx2.ConnectTimeout, self._httpx2.PoolTimeout))
            return UpstreamUnavailable() if never_connected else UpstreamStalled()
        if isinstance(exc, self._anthropic.APIStatusError) and not answered:
            return _before_reply(exc)
        return UpstreamInterrupted() if answered else UpstreamUnavailable()


def _read(chunk: bytes, stream: EventStream, reply: Reply) -> tuple[list[ReplyEvent], Exception | None]:
    """Returns the events that end in a chunk, up to the one that cannot be read, and why it cannot."""
    events: list[ReplyEvent] = []
    try:
        for data in stream.feed(chunk):
            events.extend(reply.read(_event(data)))
    except Exception as exc:
        return events, exc
    return events, None


def _event(data: bytes) -> Any:
    """Returns an event of a reply. Raises an Upstream… error for an error event, ValueError for what is no JSON."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        # It refuses half a surrogate pair, which JSON can express and the standard library reads.
        event = json.loads(data)
    if event["type"] == "error":
        raise _amid_reply(event["error"]["type"])
    return event


def _amid_reply(kind: str) -> DomainError:
    """An error within a stream, whose status is 200: only its type says what happened."""
    match kind:
        case "billing_error":
            return UpstreamSpendLimit()
        case "overloaded_error":
            return UpstreamOverloaded()
        case "rate_limit_error":
            return UpstreamRateLimited()
    return UpstreamInterrupted()


def _before_reply(exc: "APIStatusError") -> DomainError:
    if _out_of_credit(exc):
        return UpstreamSpendLimit()
    match exc.status_code:
        case 401 | 403:
            return UpstreamUnauthenticated()
        case 429:
            return UpstreamRateLimited(retry_delay=_retry_after(exc.response))
        case 529:
            return UpstreamOverloaded(retry_delay=_retry_after(exc.response))
        case code if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code in (408, 409):
            return UpstreamUnavailable(retry_delay=_retry_after(exc.response))
    named = isinstance(exc.type, str) and _ERROR_TYPE.fullmatch(exc.type)
    return UpstreamRejected(type=named.group() if named else "unknown")


def _out_of_credit(exc: "APIStatusError") -> bool:
    """Whether the account may not spend more. https://platform.claude.com/docs/en/api/errors, …/api/rate-limits.

    Spending caps come as rate limits with a code of their own, limits that the account set itself as invalid requests
    that can be told by their text only.
    """
    spent = exc.status_code == HTTPStatus.PAYMENT_REQUIRED or exc.type == "billing_error"
    said = exc.api_message if exc.status_code == HTTPStatus.BAD_REQUEST else None
    return spent or exc.error_code in SPEND_CODES or (isinstance(said, str) and _SPENT.match(said) is not None)


def _retry_after(response: "Response") -> float | None:
    """Seconds of `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3: seconds or a date)."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / unit
    try:
        return max(0.0, parsedate_to_datetime(response.headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


async def _refuse_long_waits(response: "Response") -> None:
    """Tells the SDK, in the headers that it obeys, not to wait for long."""
    wait = _retry_after(response)
    # The SDK is left what we can read only: it would wait 49 days for `inf`.
    for name in ("retry-after-ms", "retry-after"):
        response.headers.pop(name, None)
    if wait is not None:
        response.headers["retry-after"] = f"{wait:.3f}"
        if wait > LONGEST_RETRY_WAIT:
            response.headers["x-should-retry"] = "false"
