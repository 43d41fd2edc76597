"""The pipeline of every call, in any protocol: guards, timing, errors, log line, metrics, span."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from metamorph_client.api.v1.error_reason_pb2 import ErrorReason

from metamorphd.auth.remedies import REMEDIES
from metamorphd.edge.arrivals import Arrivals
from metamorphd.edge.call import CALL_ID_KEY, Call, Exchange
from metamorphd.edge.guards import Guard, ordered
from metamorphd.edge.methods import Method
from metamorphd.edge.streams import Stream, Streams
from metamorphd.errors import DomainError, Internal, PermissionMissing, TokenRefused, reason_name
from metamorphd.in_flight import BytesInFlight
from metamorphd.metrics import Metrics
from metamorphd.models.caller import Caller, Scope
from metamorphd.observe import CallLog
from metamorphd.telemetry import names
from metamorphd.telemetry.attributes import of_method, of_status
from metamorphd.telemetry.interface import Measure, Telemetry

# A servicer's method. Takes a request, or an iterator of requests, and a scope, and if requests of the method may have
# attachments, those; returns a coroutine of a response, or an async generator of responses. A generator yields None to
# say that it accepts the call, if its first response may be long in coming.
Behavior = Callable[..., Any]

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Handler:
    """A method, wrapped in the pipeline.

    `run` is called once per call. It returns the serialized response, or None if the method streams responses, which it
    has written to the exchange. If the call fails, it ends the exchange with a status.
    """

    method: Method
    run: Callable[[Exchange], Awaitable[bytes | None]]


class RefusalLog(Protocol):
    async def record(self, scope: Scope, *, method: str, permission: str) -> None: ...


class Pipeline:
    """Creates the handlers of methods, once each, and tracks the calls in progress.

    The guards of calls run before any request is read, then the guards of requests run for each request. A refusal of a
    token names the claim at fault in the log, and in the status too if `explains` is set. A lack of permission, whoever
    finds it, is answered once it is recorded, and with another error if it cannot be. Raises StartupRefused for guards
    in a wrong order.
    """

    def __init__(
        self,
        *,
        guards: Iterable[Guard],
        refusals: RefusalLog,
        streams: Streams,
        in_flight: BytesInFlight,
        metrics: Metrics,
        log: CallLog,
        telemetry: Telemetry,
        explains: bool,
    ) -> None:
        self._guards, self._request_guards = ordered(guards)
        self._refusals = refusals
        self._streams = streams
        self._in_flight = in_flight
        self._metrics = metrics
        for reason in ErrorReason.values():
            if reason != ErrorReason.ERROR_REASON_UNSPECIFIED:
                metrics.refusals.add(reason_name(reason), amount=0)
        self._log = log
        self._telemetry = telemetry
        self._explains = explains
        self._arrivals = Arrivals(streams=streams, in_flight=in_flight)
        self._calls_in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def handlers(self, methods: Mapping[str, Method], servicer: object) -> dict[str, Handler]:
        """Returns the handlers of a servicer's methods, by path. Raises AttributeError if it lacks one."""
        return {path: self._handler(method, getattr(servicer, method.name)) for path, method in methods.items()}

    async def idle(self, *, seconds: float) -> None:
        """Returns once no call is in progress, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

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
                try:
                    return await answer(call)
                except PermissionMissing as missing:
                    await self._record(call, missing)
                    raise
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
            await self._arrivals.read(call)
            await _pass(call, self._request_guards)
            self._streams.check(call.scope.actor, in_any_vault_state=call.method.in_any_vault_state)
            response = await _behave(behavior, call)
            serialized: bytes = response.SerializeToString()
            return serialized

        return answer

    def _sending(self, behavior: Behavior) -> Callable[[Call], Awaitable[bytes | None]]:
        async def answer(call: Call) -> None:
            await _pass(call, self._guards)
            await self._arrivals.read(call)
            await _pass(call, self._request_guards)
            async with (
                self._opened(call) as stream,
                contextlib.aclosing(_behave(behavior, call)) as responses,
            ):
                await stream.write_all(responses, ahead=((CALL_ID_KEY, call.call_id),), answered=call.release)

        return answer

    def _receiving(self, behavior: Behavior) -> Callable[[Call], Awaitable[bytes | None]]:
        async def answer(call: Call) -> bytes:
            await _pass(call, self._guards)
            scope = call.scope
            async with (
                self._opened(call) as stream,
                contextlib.aclosing(self._requests(call, stream)) as requests,
            ):
                response = await behavior(requests, scope)
            serialized: bytes = response.SerializeToString()
            return serialized

        return answer

    def _opened(self, call: Call) -> Stream:
        return self._streams.opened(call.exchange, call.scope.actor, in_any_vault_state=call.method.in_any_vault_state)

    async def _requests(self, call: Call, stream: Stream) -> AsyncGenerator[Any]:
        """Yields the requests of a stream, each checked. Ends if the caller has finished, and raises if it is gone.

        Their bytes count until the call ends, or if the method releases them, until the next one is read.
        """
        hold = call.hold = self._in_flight.hold(call.scope.vault_id)
        async with contextlib.aclosing(stream.read_all()) as requests:
            async for raw in requests:
                hold.resize(len(raw) if call.method.releases_requests else hold.size + len(raw))
                call.raw = raw
                del raw
                await _pass(call, self._request_guards)
                yield call.take_request()
        # Sending fails if the caller cancelled or its connection broke. Until then this often looks as if the caller
        # had finished, in half of the cases while the event loop is busy. That is why it is not sent earlier.
        await call.exchange.send_initial_metadata(((CALL_ID_KEY, call.call_id),))

    def _begin(self, method: Method, exchange: Exchange) -> Call:
        call = Call(method, exchange)
        call.span = self._telemetry.call(method.path, call.traced)
        self._calls_in_progress += 1
        self._idle.clear()
        exchange.set_trailing_metadata(((CALL_ID_KEY, call.call_id),))
        return call

    async def _record(self, call: Call, missing: PermissionMissing) -> None:
        permission = missing.metadata["permission"]
        await self._refusals.record(call.scope, method=call.method.path[1:], permission=permission)

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
            logger.error("call failed", endpoint=call.method.path, call_id=call.call_id, exc_info=exc, **call.span.ids)
        else:
            return
        # Also for a CancelledError without a cancelled call, because the caller would hang without a status
        # (grpc#29248).
        await self._abort(call, Internal())

    async def _abort(self, call: Call, error: DomainError) -> None:
        call.code, call.reason = error.code.name, error.reason_name()
        if isinstance(error, TokenRefused):
            call.why = error.why
            if self._explains:
                error.explain()
        self._metrics.refusals.add(call.reason)
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
            if call.span.recorded:
                _end_span(call)
            line = partial(
                _line,
                endpoint=path,
                code=call.code,
                seconds=seconds,
                call_id=call.call_id,
                caller=call.caller,
                reason=call.reason,
                why=call.why,
                ids=call.span.ids,
            )
            write(line)

        return end


def _line(
    *,
    endpoint: str,
    code: str,
    seconds: float,
    call_id: str,
    caller: Caller | None,
    reason: str | None,
    why: str,
    ids: Mapping[str, str],
) -> Mapping[str, object]:
    """Returns the fields of a call's log line. Not of the call itself, which is to be forgotten by then."""
    milliseconds = round(seconds * 1000, 3)
    line: dict[str, object] = {"endpoint": endpoint, "code": code, "duration": milliseconds, "call_id": call_id}
    if caller is not None:
        line["vaultId"] = caller.vault_id
        line["userId"] = caller.user_id
    if reason is not None:
        line["reason"] = reason
    if why:
        line["why"] = why
        if remedy := REMEDIES.get(why):
            line["remedy"] = remedy
    line.update(ids)
    return line


def _behave(behavior: Behavior, call: Call) -> Any:
    carried = (call.take_carried(),) if call.method.attachments else ()
    return behavior(call.take_request(), call.scope, *carried)


def measure_of(metrics: Metrics) -> Measure:
    """Returns the metric of calls for OpenTelemetry."""
    return Measure(
        names.RPC_DURATION,
        "Measures the duration of an incoming Remote Procedure Call (RPC).",
        metrics.durations,
        lambda values: {**of_method(values[0]), **of_status(values[1])},
    )


def _end_span(call: Call) -> None:
    attributes = dict(of_status(call.code))
    if call.caller is not None:
        # It cannot be an email, as a user's id can.
        attributes[names.VAULT_ID] = call.caller.vault_id
    if call.reason is not None:
        attributes[names.REASON] = call.reason
    call.span.describe(attributes)
    call.span.end(error=attributes.get(names.ERROR_TYPE, ""))


async def _pass(call: Call, guards: Iterable[Guard]) -> None:
    for guard in guards:
        waiting = guard(call)
        if waiting is not None:
            await waiting
