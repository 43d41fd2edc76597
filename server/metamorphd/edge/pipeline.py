"""The pipeline of every call, in any protocol: guards, timing, errors, log line, metrics."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from metamorphd.edge.call import CALL_ID_KEY, Call, Exchange
from metamorphd.edge.guards import LARGEST_INLINE, Guard, ordered
from metamorphd.edge.methods import Method
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.edge.streams import Stream, Streams
from metamorphd.errors import ByteRateExceeded, DomainError, Internal, RequestMalformed
from metamorphd.in_flight import BytesInFlight
from metamorphd.observe import CallLog, Metrics

# A servicer's method. Takes a request, or an iterator of requests, and a scope, and if requests of the method may have
# attachments, those; returns a coroutine of a response, or an async generator of responses.
Behavior = Callable[..., Any]

# Large requests of a vault that may be on their way without being counted. An ordinary one is there at once.
ARRIVING = 1
# After this time, a request that has not arrived is large.
SOON_SECONDS = 0.1
# grpc.aio joins a request's pieces on the event loop, which takes 10 to 20 ms for one of 20 MB. So each vault's large
# requests have a rate. Beyond it, one that has not arrived after the shorter time is refused without being joined, if
# it is for a method that received large ones: a small one may be late on a busy connection.
LARGE_BYTES_PER_SECOND = 8 * 1024 * 1024
LARGE_BURST_SECONDS = 2
VERY_SOON_SECONDS = 0.005

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Handler:
    """A method, wrapped in the pipeline.

    `run` is called once per call. It returns the serialized response, or None if the method streams responses, which it
    has written to the exchange. If the call fails, it ends the exchange with a status.
    """

    method: Method
    run: Callable[[Exchange], Awaitable[bytes | None]]


class Pipeline:
    """Creates the handlers of methods, once each, and tracks the calls in progress.

    The guards of calls run before any request is read, then the guards of requests run for each request. Raises
    StartupRefused for guards in a wrong order.
    """

    def __init__(
        self, *, guards: Iterable[Guard], streams: Streams, in_flight: BytesInFlight, metrics: Metrics, log: CallLog
    ) -> None:
        self._guards, self._request_guards = ordered(guards)
        self._streams = streams
        self._in_flight = in_flight
        self._metrics = metrics
        self._log = log
        self._arriving: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._large_bytes = RateLimit(
            requests=LARGE_BYTES_PER_SECOND * LARGE_BURST_SECONDS, window_seconds=LARGE_BURST_SECONDS
        )
        self._calls_in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def handlers(self, methods: Mapping[str, Method], servicer: object) -> dict[str, Handler]:
        """Returns the handlers of a servicer's methods, by path. Raises AttributeError if it lacks one."""
        return {path: self._handler(method, getattr(servicer, method.name)) for path, method in methods.items()}

    async def idle(self, *, seconds: float) -> None:
        """Returns once no call is in progress, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def _handler(self, method: Method, behavior: Behavior) -> Handler:
        if method.streams_requests:
            answer = self._receiving(behavior)
        elif method.streams_responses:
            answer = self._sending(behavior)
        else:
            answer = self._unary(behavior)
        end = self._end_of(method)

        async def run(exchange: Exchange) -> bytes | None:
            call = self._begin(method, exchange)
            try:
                return await answer(call)
            except BaseException as exc:
                await self._refuse(call, exc)
                raise
            finally:
                call.release()
                end(call)

        return Handler(method, run)

    def _unary(self, behavior: Behavior) -> Callable[[Call], Awaitable[bytes | None]]:
        async def answer(call: Call) -> bytes:
            # A separate frame costs a unary call a fifth of its rate, so it is sent only if the caller chose the id.
            if call.call_id_was_sent:
                await call.exchange.send_initial_metadata(((CALL_ID_KEY, call.call_id),))
            await _pass(call, self._guards)
            await self._request(call)
            response = await _behave(behavior, call)
            serialized: bytes = response.SerializeToString()
            return serialized

        return answer

    def _sending(self, behavior: Behavior) -> Callable[[Call], Awaitable[bytes | None]]:
        async def answer(call: Call) -> None:
            await call.exchange.send_initial_metadata(((CALL_ID_KEY, call.call_id),))
            await _pass(call, self._guards)
            await self._request(call)
            async with (
                self._streams.opened(call.exchange, call.scope.actor) as stream,
                contextlib.aclosing(_behave(behavior, call)) as responses,
            ):
                await stream.write_all(responses, answered=call.release)

        return answer

    def _receiving(self, behavior: Behavior) -> Callable[[Call], Awaitable[bytes | None]]:
        async def answer(call: Call) -> bytes:
            await _pass(call, self._guards)
            scope = call.scope
            async with (
                self._streams.opened(call.exchange, scope.actor) as stream,
                contextlib.aclosing(self._requests(call, stream)) as requests,
            ):
                response = await behavior(requests, scope)
            serialized: bytes = response.SerializeToString()
            return serialized

        return answer

    async def _request(self, call: Call) -> None:
        """Reads and checks the only request of a call.

        How large it is, is known once it has been read. One that takes long to arrive therefore counts as the largest
        that the method accepts until then.
        """
        largest = call.method.max_request_bytes
        if largest > LARGEST_INLINE:
            call.raw = await self._read_large(call, largest)
        elif self._too_fast(call):
            # Whatever the method accepts, gRPC reads up to the size that any does.
            late = partial(self._refuse_too_fast, call)
            call.raw = await self._streams.read(call.exchange, late=late, soon=VERY_SOON_SECONDS)
        else:
            call.raw = await self._streams.read(call.exchange, late=None)
        if call.raw is call.exchange.end:
            raise RequestMalformed
        size = len(call.raw)
        if size > LARGEST_INLINE:
            self._large_bytes.charge(call.scope.vault_id, size)
            self._large_bytes.charge((call.scope.vault_id, call.method.path), size)
        if call.hold is not None:
            call.hold.resize(size if size > LARGEST_INLINE else 0)
        await _pass(call, self._request_guards)

    async def _read_large(self, call: Call, largest: int) -> Any:
        """Returns the request of a call that may be of megabytes.

        Until it is late and counts, a call has a place among those of its vault. Others wait for one.
        """
        vault_id = call.scope.vault_id
        hold = call.hold = self._in_flight.hold(vault_id)
        places = self._arriving.setdefault(vault_id, asyncio.Semaphore(ARRIVING))
        await places.acquire()
        leave = Once(places.release)

        def late() -> None:
            self._refuse_too_fast(call)
            hold.resize(largest)
            leave()

        soon = VERY_SOON_SECONDS if self._too_fast(call) else SOON_SECONDS
        try:
            return await self._streams.read(call.exchange, late=late, soon=soon)
        finally:
            leave()

    def _too_fast(self, call: Call) -> float:
        """Returns for how long large requests of a call's vault and method are refused."""
        vault_id = call.scope.vault_id
        wait = self._large_bytes.wait(vault_id)
        return wait if wait and self._large_bytes.charged((vault_id, call.method.path)) else 0.0

    def _refuse_too_fast(self, call: Call) -> None:
        """Raises ByteRateExceeded if large requests of a call's vault and method are refused."""
        wait = self._too_fast(call)
        if wait:
            raise ByteRateExceeded(bytes_per_second=LARGE_BYTES_PER_SECOND, retry_delay=wait)

    async def _requests(self, call: Call, stream: Stream) -> AsyncGenerator[Any]:
        """Yields the requests of a stream, each checked. Ends if the caller has finished, and raises if it is gone.

        Their bytes count until the call ends.
        """
        hold = call.hold = self._in_flight.hold(call.scope.vault_id)
        async with contextlib.aclosing(stream.read_all()) as requests:
            async for raw in requests:
                hold.resize(hold.size + len(raw))
                call.raw = raw
                del raw
                await _pass(call, self._request_guards)
                yield call.take_request()
        # Sending fails if the caller cancelled or its connection broke. Until then this often looks as if the caller
        # had finished, in half of the cases while the event loop is busy. That is why it is not sent earlier.
        await call.exchange.send_initial_metadata(((CALL_ID_KEY, call.call_id),))

    def _begin(self, method: Method, exchange: Exchange) -> Call:
        call = Call(method, exchange)
        self._calls_in_progress += 1
        self._idle.clear()
        exchange.set_trailing_metadata(((CALL_ID_KEY, call.call_id),))
        return call

    async def _refuse(self, call: Call, exc: BaseException) -> None:
        """Ends a failed call. The only place where exceptions become statuses. Returns if the call was cancelled."""
        if isinstance(exc, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                call.code = "CANCELLED"
                return
        elif isinstance(exc, DomainError):
            await self._abort(call, exc)
        elif isinstance(exc, Exception):
            logger.error("call failed", endpoint=call.method.path, call_id=call.call_id, exc_info=exc)
        else:
            return
        # Also for a CancelledError without a cancelled call, because the caller would hang without a status
        # (grpc#29248).
        await self._abort(call, Internal())

    async def _abort(self, call: Call, error: DomainError) -> None:
        call.code, call.reason = error.code.name, error.reason_name()
        await call.exchange.abort(error.to_status(call_id=call.call_id))

    def _end_of(self, method: Method) -> Callable[[Call], None]:
        """Returns a function that records the end of a call of a method, with its metrics and its log line."""
        count, write, path = self._metrics.of_method(method.path).ended, self._log.write, method.path

        def end(call: Call) -> None:
            seconds = time.perf_counter() - call.began
            self._calls_in_progress -= 1
            if not self._calls_in_progress:
                self._idle.set()
            count(call.code, seconds)
            line: dict[str, object] = {
                "endpoint": path,
                "code": call.code,
                "duration": round(seconds * 1000, 3),
                "call_id": call.call_id,
            }
            if call.caller is not None:
                line["vaultId"] = call.caller.vault_id
                line["userId"] = call.caller.user_id
            if call.reason is not None:
                line["reason"] = call.reason
            write(line)

        return end


class Once:
    """Calls a function the first time that it is called."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


def _behave(behavior: Behavior, call: Call) -> Any:
    carried = (call.take_carried(),) if call.method.attachments else ()
    return behavior(call.take_request(), call.scope, *carried)


async def _pass(call: Call, guards: Iterable[Guard]) -> None:
    for guard in guards:
        waiting = guard(call)
        if waiting is not None:
            await waiting
