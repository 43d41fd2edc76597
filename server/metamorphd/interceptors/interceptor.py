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
from metamorphd.errors import DomainError, Internal
from metamorphd.interceptors.call import CALL_ID_KEY, Call, Method
from metamorphd.interceptors.guards import Guard
from metamorphd.interceptors.streams import Streams
from metamorphd.observe import CallLog, Metrics

T = TypeVar("T")
LAST_SEND_SECONDS = 2.0
Context = grpc.aio.ServicerContext[Any, Any]
# Text, because the class takes no parameters at run time.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

logger = structlog.get_logger(__name__)


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of `methods`, each once. Those of other services (health, reflection) pass untouched."""

    def __init__(
        self,
        *,
        methods: Mapping[str, Method],
        guards: Sequence[Guard],
        streams: Streams,
        metrics: Metrics,
        log: CallLog,
    ) -> None:
        self._methods = methods
        self._guards = guards
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
        behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, behaviour), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, behaviour), response_serializer=handler.response_serializer
        )

    def _unary(self, method: Method, behaviour: Callable[[Any, Context], Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def call_unary(raw: bytes, context: Context) -> T:
            return await self._run(method, raw, context, behaviour, early=False)

        return call_unary

    def _streaming(
        self, method: Method, behaviour: Callable[[Any, Context], AsyncGenerator[Any]]
    ) -> Callable[..., Awaitable[None]]:
        async def send_all(request: Any, context: Context) -> None:
            async with (
                self._streams.opened(context, current_caller.get()) as stream,
                contextlib.aclosing(behaviour(request, context)) as responses,
            ):
                await stream.write_all(responses)

        async def call_streaming(raw: bytes, context: Context) -> None:
            await self._run(method, raw, context, send_all, early=True)

        return call_streaming

    async def _run(
        self,
        method: Method,
        raw: bytes,
        context: Context,
        behaviour: Callable[[Any, Context], Awaitable[T]],
        *,
        early: bool,
    ) -> T:
        began = time.perf_counter()
        call = Call(method, context.invocation_metadata() or (), raw, peer=context.peer)
        code, reason = "OK", None
        self._calls_in_progress += 1
        self._idle.clear()
        try:
            context.set_trailing_metadata(((CALL_ID_KEY, call.call_id),))
            # A frame of its own costs a unary call a fifth of its rate, so it goes only where it tells something early.
            if early or call.call_id_was_sent:
                await context.send_initial_metadata(((CALL_ID_KEY, call.call_id),))
            for guard in self._guards:
                waiting = guard(call)
                if waiting is not None:
                    await waiting
            return await behaviour(call.request, context)
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
            logger.exception("call failed", endpoint=method.path, call_id=call.call_id)
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


async def _abort(context: Context, call: Call, error: DomainError) -> None:
    try:
        # The status waits behind what the caller has not read yet; grpc has no way to reset a stream.
        async with asyncio.timeout(LAST_SEND_SECONDS):
            await context.abort_with_status(rpc_status.to_status(error.to_status(call_id=call.call_id)))
    except TimeoutError:
        raise grpc.aio.AbortError from None
