"""The calls of stubs: each says who calls, has a deadline if it is unary, and fails with MetamorphError."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import grpc

from metamorph_client.connection import Connection
from metamorph_client.errors import MetamorphError, TokenFailed
from metamorph_client.identity import Identity, Metadata
from metamorph_client.iterating import every

C = TypeVar("C", bound="Call")
T = TypeVar("T")
IDENTITY_KEYS = {"authorization", "x-vault-id"}


class IdentifyingChannel:
    """Makes the calls of stubs, and adds what identifies the caller, unless the call's own metadata identifies one.

    An interceptor of grpc.aio would handle one of the four kinds of calls, and run each call in a task of its own.
    """

    def __init__(self, connection: Connection, identity: Identity, timeout: float | None) -> None:
        self._connection = connection
        self._identity = identity
        self._timeout = timeout

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., "Response"]:
        return self._identified(Response, self._connection.method("unary_unary", *args, **kwargs), self._timeout)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., "Responses"]:
        return self._identified(Responses, self._connection.method("unary_stream", *args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., "Response"]:
        return self._streaming(Response, self._connection.method("stream_unary", *args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., "Responses"]:
        return self._streaming(Responses, self._connection.method("stream_stream", *args, **kwargs))

    def _streaming(self, kind: type[C], start: Callable[..., Any]) -> Callable[..., C]:
        identified = self._identified(kind, start)

        def call(requests: Iterable[Any] | AsyncIterable[Any] | None = None, **kwargs: Any) -> C:
            if requests is None:
                return identified(**kwargs)
            kept = Requests(requests)
            made = identified(kept, **kwargs)
            made.requests = kept
            return made

        return call

    def _identified(self, kind: type[C], start: Callable[..., Any], deadline: float | None = None) -> Callable[..., C]:
        def call(
            *args: Any,
            metadata: Iterable[tuple[str, Any]] | None = None,
            timeout: float | None = None,
            **kwargs: Any,
        ) -> C:
            self._connection.check()
            given = tuple(metadata or ())
            # Not one of each: the server refuses a vault beside a token.
            identified = any(key in IDENTITY_KEYS for key, _ in given)
            own = () if identified else self._identity.metadata()
            seconds = deadline if timeout is None else timeout
            return kind(
                lambda found, left: start(*args, metadata=(*found, *given), timeout=left, **kwargs),
                own,
                seconds=seconds,
                token_seconds=self._timeout if seconds is None else seconds,
                connection=self._connection,
                renews_tokens=self._identity.renews_tokens and not identified,
            )

        return call


def resumed(call: T) -> T:
    """Returns a call of a stub that raises TokenFailed, for those who make it again."""
    cast(Call, call).resumes = True
    return call


class Requests:
    """The requests that a caller streams. Keeps the exception that ends them: gRPC has only CancelledError for it."""

    def __init__(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._requests = requests
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for request in every(self._requests):
                yield request
        except Exception as exc:
            self.failure = exc
            raise


class Call:
    """A call of a stub, as grpc.aio has it, that starts at once, or as soon as its token is there.

    What its methods raise is MetamorphError, CancelledError if `cancel` ended the call, or else what the caller's own
    stream of requests raised.
    """

    def __init__(
        self,
        start: Callable[[Metadata, float | None], Any],
        identity: Metadata | Awaitable[Metadata],
        *,
        seconds: float | None,
        token_seconds: float | None,
        connection: Connection,
        renews_tokens: bool,
    ) -> None:
        self._start = start
        self._seconds = seconds
        self._token_seconds = token_seconds
        self._connection = connection
        self._renews_tokens = renews_tokens
        self.resumes = False
        self.requests: Requests | None = None
        self._call: Any = None
        self._starting: asyncio.Future[Any] | None = None
        if isinstance(identity, tuple):
            self._call = start(identity, seconds)
        else:
            self._starting = connection.run(self._identify(identity))

    async def _identify(self, identity: Awaitable[Metadata]) -> Any:
        loop = asyncio.get_running_loop()
        began, limit = loop.time(), asyncio.timeout(self._token_seconds)
        try:
            async with limit:
                found = await identity
        except TimeoutError:
            if not limit.expired():
                raise
            late = MetamorphError(grpc.StatusCode.DEADLINE_EXCEEDED, "", "the token did not come in time")
            raise TokenFailed.by(late) from late
        left = None if self._seconds is None else max(0, self._seconds - (loop.time() - began))
        self._call = self._start(found, left)
        return self._call

    async def _started(self) -> Any:
        # Shielded: whoever waits for it is not the only one that does.
        return self._call if self._starting is None else await asyncio.shield(self._starting)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except TokenFailed as exc:
            self._connection.check()
            if self.resumes:
                raise
            raise exc.failure from exc.failure.__cause__
        except grpc.aio.AioRpcError as exc:
            self._connection.check()
            raise MetamorphError.of(exc, new_token=self._renews_tokens) from exc
        except asyncio.InvalidStateError:
            self._connection.check()
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Unless it is whoever waits for the call that is cancelled.
            if task is None or not task.cancelling():
                self._connection.check()
                if self.requests is not None and self.requests.failure is not None:
                    raise self.requests.failure from None
            raise

    def cancel(self) -> bool:
        """Cancels the call. Returns whether it was going on."""
        if self._call is None and self._starting is not None:
            return self._starting.cancel()
        return bool(self._call.cancel())

    def done(self) -> bool:
        """Returns whether the call has ended."""
        if self._call is None and self._starting is not None:
            return self._starting.done()
        return bool(self._call.done())

    def cancelled(self) -> bool:
        """Returns whether `cancel` ended the call."""
        if self._call is None and self._starting is not None:
            return self._starting.cancelled()
        return bool(self._call.cancelled())

    def time_remaining(self) -> float | None:
        """Returns how many seconds are left, or None if there is no deadline, or no token yet."""
        return None if self._call is None else self._call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Calls a function with this call once it has ended."""
        if self._starting is None:
            self._call.add_done_callback(lambda _: callback(self))
            return

        def started(_: object) -> None:
            if self._call is None:
                callback(self)
            else:
                self._call.add_done_callback(lambda _: callback(self))

        self._starting.add_done_callback(started)

    async def wait_for_connection(self) -> None:
        """Returns once the call is sent."""
        with self._failing():
            await self._connection.run((await self._started()).wait_for_connection())

    async def initial_metadata(self) -> Any:
        with self._failing():
            return await (await self._started()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        with self._failing():
            return await (await self._started()).trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        with self._failing():
            return cast(grpc.StatusCode, await (await self._started()).code())

    async def details(self) -> str:
        with self._failing():
            return str(await (await self._started()).details())

    async def write(self, request: Any) -> None:
        """Sends a request of a call that takes a stream of them."""
        with self._failing():
            # A write whose connection is not made yet would not notice that it is closed.
            await self._connection.run((await self._started()).write(request))

    async def done_writing(self) -> None:
        """Ends the stream of requests."""
        with self._failing():
            await (await self._started()).done_writing()


class Response(Call):
    """A call with one response, which is awaited."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        with self._failing():
            try:
                return await (await self._started())
            except asyncio.CancelledError:
                self.cancel()
                raise


class Responses(Call):
    """A call with a stream of responses, to be iterated over, or read one by one."""

    async def read(self) -> Any:
        """Returns the next response, or `grpc.aio.EOF`."""
        with self._failing():
            return await (await self._started()).read()

    async def __aiter__(self) -> AsyncIterator[Any]:
        with self._failing():
            async for response in await self._started():
                yield response
