"""The wrapper around every call: guards, errors, log line, metrics. The only place that catches."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from grpc_status import rpc_status

from metamorphd.auth.callers import current_caller
from metamorphd.edge.call import CALL_ID_KEY, Call
from metamorphd.edge.grpc.hardened_server import CallerGone
from metamorphd.edge.guards import Guard
from metamorphd.edge.methods import Method
from metamorphd.edge.streams import PATIENCE_SECONDS, Stream, Streams
from metamorphd.errors import DomainError, Internal, RequestMalformed, SenderTooSlow
from metamorphd.observe import CallLog, Metrics

T = TypeVar("T")
LAST_SEND_SECONDS = 2.0
Context = grpc.aio.ServicerContext[Any, Any]
# Text, because the class takes no parameters at run time.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

logger = structlog.get_logger(__name__)


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of `methods`, each once. Those of other services (health, reflection) pass untouched.

    A call passes `guards`, then each of its requests `request_guards`.
    """

    def __init__(
        self,
        *,
        methods: Mapping[str, Method],
        guards: Sequence[Guard],
        request_guards: Sequence[Guard],
        streams: Streams,
        metrics: Metrics,
        log: CallLog,
    ) -> None:
        self._methods = methods
        self._guards = guards
        self._request_guards = request_guards
        self._streams = streams
        self._metrics = metrics
        self._log = log
        self._wrapped: dict[str, Handler] = {}
        self._calls_in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self, *, seconds: float) -> None:
        """Returns once no call is in progress, at the latest after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        method = self._methods.get(path)
        if method is None or handler is None:
            return handler
        self._wrapped[path] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: Method, handler: Handler) -> Handler:
        # Typed loosely: the stubs know the synchronous server's behaviours only.
        behaviour: Any = handler.stream_unary or handler.unary_stream or handler.unary_unary
        if handler.request_streaming:
            wrap, wrapped = grpc.stream_unary_rpc_method_handler, self._receiving(method, behaviour)
        elif handler.response_streaming:
            wrap, wrapped = grpc.stream_stream_rpc_method_handler, self._sending(method, behaviour)
        else:
            # On the wire they are the same; but of a stream grpc reads no request before it is told to, and who is
            # refused has made the server hold nothing.
            wrap, wrapped = grpc.stream_unary_rpc_method_handler, self._unary(method, behaviour)
        return wrap(wrapped, response_serializer=handler.response_serializer)

    def _unary(self, method: Method, behaviour: Callable[[Any, Context], Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def answer(call: Call, context: Context) -> T:
            await self._request(call, context)
            return await behaviour(call.request, context)

        async def call_unary(_requests: object, context: Context) -> T:
            call = Call(method, context.invocation_metadata() or (), b"", peer=context.peer)
            # A frame of its own costs a unary call a fifth of its rate, so it goes only where it tells something early.
            return await self._run(call, context, answer, early=call.call_id_was_sent)

        return call_unary

    def _sending(
        self, method: Method, behaviour: Callable[[Any, Context], AsyncGenerator[Any]]
    ) -> Callable[..., Awaitable[None]]:
        async def send_all(call: Call, context: Context) -> None:
            await self._request(call, context)
            async with (
                self._streams.opened(context, current_caller.get()) as stream,
                contextlib.aclosing(behaviour(call.request, context)) as responses,
            ):
                await stream.write_all(responses)

        async def call_sending(_requests: object, context: Context) -> None:
            call = Call(method, context.invocation_metadata() or (), b"", peer=context.peer)
            await self._run(call, context, send_all, early=True)

        return call_sending

    async def _request(self, call: Call, context: Context) -> None:
        """Takes in the one request of a call, and checks it."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                raw = await context.read()
        except TimeoutError:
            raise SenderTooSlow from None
        if raw is grpc.aio.EOF:
            raise RequestMalformed
        call.raw = raw
        await _pass(call, self._request_guards)

    def _receiving(
        self, method: Method, behaviour: Callable[[Any, Context], Awaitable[T]]
    ) -> Callable[..., Awaitable[T]]:
        async def receive_all(call: Call, context: Context) -> T:
            async with (
                self._streams.opened(context, current_caller.get()) as stream,
                contextlib.aclosing(self._requests(call, context, stream)) as requests,
            ):
                return await behaviour(requests, context)

        async def call_receiving(_requests: object, context: Context) -> T:
            call = Call(method, context.invocation_metadata() or (), b"", peer=context.peer)
            return await self._run(call, context, receive_all, early=False)

        return call_receiving

    async def _requests(self, call: Call, context: Context, stream: Stream) -> AsyncGenerator[Any]:
        """The requests of a stream, each checked. Ends if the caller has finished, and raises if it went away."""
        async with contextlib.aclosing(stream.read_all()) as requests:
            async for raw in requests:
                call.raw = raw
                await _pass(call, self._request_guards)
                yield call.request
        # Only a caller that is still there can be sent something: one that cancelled, or whose connection broke, looks
        # until then as if it had finished, in half of the cases while the event loop is busy. Hence not early.
        await context.send_initial_metadata(((CALL_ID_KEY, call.call_id),))

    async def _run(
        self,
        call: Call,
        context: Context,
        answer: Callable[[Call, Context], Awaitable[T]],
        *,
        early: bool,
    ) -> T:
        began = time.perf_counter()
        code, reason = "OK", None
        self._calls_in_progress += 1
        self._idle.clear()
        try:
            context.set_trailing_metadata(((CALL_ID_KEY, call.call_id),))
            if early:
                await context.send_initial_metadata(((CALL_ID_KEY, call.call_id),))
            await _pass(call, self._guards)
            return await answer(call, context)
        except DomainError as error:
            code, reason = error.code.name, error.reason_name()
            await _abort(context, call, error)
        except asyncio.CancelledError:
            code = "CANCELLED"
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this call: the caller would hang if it were left so (grpc#29248).
            code, reason = "INTERNAL", Internal.reason_name()
            await _abort(context, call, Internal())
        except Exception:
            code, reason = "INTERNAL", Internal.reason_name()
            logger.exception("call failed", endpoint=call.method.path, call_id=call.call_id)
            await _abort(context, call, Internal())
        finally:
            self._calls_in_progress -= 1
            if not self._calls_in_progress:
                self._idle.set()
            self._tell(call, code, reason, time.perf_counter() - began)
        raise AssertionError("abort raises")

    def _tell(self, call: Call, code: str, reason: str | None, seconds: float) -> None:
        self._metrics.call_ended(call.method.path, code, seconds)
        line: dict[str, object] = {
            "endpoint": call.method.path,
            "code": code,
            "duration": round(seconds * 1000, 3),
            "call_id": call.call_id,
        }
        if call.caller is not None:
            line["vaultId"] = call.caller.vault_id
            line["userId"] = call.caller.user_id
        if reason is not None:
            line["reason"] = reason
        self._log.write(line)


async def _pass(call: Call, guards: Sequence[Guard]) -> None:
    for guard in guards:
        waiting = guard(call)
        if waiting is not None:
            await waiting


async def _abort(context: Context, call: Call, error: DomainError) -> None:
    try:
        # The status waits behind what the caller has not read yet; grpc has no way to reset a stream.
        async with asyncio.timeout(LAST_SEND_SECONDS):
            await context.abort_with_status(rpc_status.to_status(error.to_status(call_id=call.call_id)))
    except (TimeoutError, CallerGone):
        # Ends the call without a further attempt to send. An AbortError of ours would be an error of its own to grpc.
        raise asyncio.CancelledError from None
