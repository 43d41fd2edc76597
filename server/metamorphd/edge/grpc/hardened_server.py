"""A grpc.aio server that no caller can stop, and handlers that tell no caller of an exception."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from grpc.aio._server import Server

# What sending raises when the caller is gone.
CallerGone = cygrpc.ExecuteBatchError

Options = Sequence[tuple[str, Any]]


# Calls of one method that are accepted in one step of the event loop: a burst of more waits for the next step.
ACCEPTS = 4

# By whether requests and responses are streams: grpc.aio's own ways to answer a call.
_ANSWERS = {
    (False, False): cygrpc._handle_unary_unary_rpc,
    (False, True): cygrpc._handle_unary_stream_rpc,
    (True, False): cygrpc._handle_stream_unary_rpc,
    (True, True): cygrpc._handle_stream_stream_rpc,
}


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Accepts calls in a loop for each method, and one for methods that were not registered, which it refuses.

    grpcio 1.85 accepts all calls in one loop, which waits anew for all methods before each call: a tenth of the whole
    work of a server of forty methods. And it decodes the path of an unregistered method there, so that it stops serving
    for good when a path is not UTF-8; any caller could send one, since no token is asked for before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Options) -> None:
        super().__init__(loop, None, (), (), tuple(options), None)
        self._event_loop = loop
        self._handlers: dict[str, Any] = {}
        # The event loop has weak references to tasks only.
        self._tasks: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
        super().add_registered_method_handlers(method_handlers)
        self._handlers.update(method_handlers)

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        """Returns the future of a loop that accepts calls until the server stops, in place of one call's."""
        if method is None:
            return asyncio.gather(self._refuse_all())
        return asyncio.gather(*(self._accept_all(method) for _ in range(ACCEPTS)))

    async def _accept_all(self, method: bytes) -> None:
        """Ends, when the server stops, with the error that grpc expects of the future in its place."""
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
    """Returns a server of registered methods only; every other one is UNIMPLEMENTED."""
    server: Any = _Server(options=options)
    # Its stubs have two classes where there is one.
    return server  # type: ignore[no-any-return]


def parsing(handler: Any) -> Any:
    """A handler that answers INVALID_ARGUMENT to what does not parse; grpc.aio would log it, and show the caller the
    exception. For gRPC's own services: ours parse in a guard."""
    parse, behaviour = handler.request_deserializer, handler.unary_stream or handler.unary_unary

    async def call(raw: bytes, context: Any) -> Any:
        return await behaviour(await _parsed(parse, raw, context), context)

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
