"""A grpc.aio server that callers cannot stop, and handlers that do not expose exceptions to callers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from grpc.aio._server import Server

# Raised by sending if the caller is gone.
CallerGone = cygrpc.ExecuteBatchError
# Raised by `abort`, for grpc.aio.
Aborted = cygrpc.AbortError

Options = Sequence[tuple[str, Any]]


# Calls of one method that are accepted per step of the event loop. The rest of a burst waits for the next steps.
ACCEPTS = 4

# grpc.aio's own functions that answer a call, by whether requests and responses are streams.
_ANSWERS = {
    (False, False): cygrpc._handle_unary_unary_rpc,
    (False, True): cygrpc._handle_unary_stream_rpc,
    (True, False): cygrpc._handle_stream_unary_rpc,
    (True, True): cygrpc._handle_stream_stream_rpc,
}


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # a Cython class without types
    """Accepts calls in loops per method, and in one loop for unregistered methods, which it refuses.

    grpcio 1.85 accepts all calls in a single loop, which waits for every method again before each call: a tenth of the
    total work of a server with forty methods. That loop also decodes the paths of unregistered methods, and stops
    serving for good at a path that is not UTF-8, which any caller could send without a token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Options) -> None:
        super().__init__(loop, None, (), (), tuple(options), None)
        self._event_loop = loop
        self._handlers: dict[str, Any] = {}
        # The event loop only holds weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
        super().add_registered_method_handlers(method_handlers)
        self._handlers.update(method_handlers)

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        """Returns a future of loops that accept calls until the server stops. The base class's is for one call."""
        if method is None:
            return asyncio.gather(self._refuse_all())
        return asyncio.gather(*(self._accept_all(method) for _ in range(ACCEPTS)))

    async def _accept_all(self, method: bytes) -> None:
        """Accepts calls until the server stops. Then raises the error that grpc expects of its own future."""
        name, loop = method.decode(), self._event_loop
        handler = self._handlers[name]
        answer = _ANSWERS[handler.request_streaming, handler.response_streaming]
        while True:
            state = await self._request_registered_call(method)
            self._spawn(cygrpc._schedule_rpc_coro(answer(handler, state, loop), state, loop, name))

    async def _refuse_all(self) -> None:
        while True:
            state = await self._request_call()
            self._spawn(_refuse(state))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._event_loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _refuse(state: Any) -> None:
    context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
    with contextlib.suppress(cygrpc.AbortError, CallerGone):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class _Server(Server):
    def __init__(self, *, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, options)


def hardened_server(*, options: Options) -> grpc.aio.Server:
    """Returns a server of registered methods only; all others are UNIMPLEMENTED."""
    server: Any = _Server(options=options)
    return server  # type: ignore[no-any-return]  # grpc's stubs declare two classes for one


def parsing(handler: Any) -> Any:
    """Returns the handler, wrapped to answer INVALID_ARGUMENT to requests that do not parse.

    grpc.aio would log the exception and send it to the caller. For gRPC's own services; ours parse in a guard.
    """
    parse, behavior = handler.request_deserializer, handler.unary_stream or handler.unary_unary

    async def call(raw: bytes, context: Any) -> Any:
        return await behavior(await _parsed(parse, raw, context), context)

    async def call_streaming(raws: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        requests = (await _parsed(parse, raw, context) async for raw in raws)
        async for response in handler.stream_stream(requests, context):
            yield response

    kinds = {"unary_unary": call, "unary_stream": call, "stream_stream": call_streaming}
    (kind,) = (kind for kind in kinds if getattr(handler, kind) is not None)
    return handler._replace(request_deserializer=None, **{kind: kinds[kind]})


async def _parsed(parse: Callable[[bytes], Any], raw: bytes, context: Any) -> Any:
    try:
        return parse(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of its type")
