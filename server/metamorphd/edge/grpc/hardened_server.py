"""A grpc.aio server that no caller can stop, and handlers that tell no caller of an exception."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from grpc.aio._server import Server

# What sending raises when the caller is gone.
CallerGone = cygrpc.ExecuteBatchError

Options = Sequence[tuple[str, Any]]


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Answers calls of methods that were not registered itself.

    grpcio 1.85 decodes the path of such a call in the loop that accepts all calls, and stops serving for good when the
    path is not UTF-8. Anybody could send one: no token is asked for before.
    """

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        if method is not None:
            future: asyncio.Future[Any] = super()._make_request_call_future(method)
            return future
        return asyncio.create_task(self._refuse_all())

    async def _refuse_all(self) -> None:
        """Goes on until the server stops, then raises what grpc expects of the future in its place."""
        refusing = set()
        while True:
            state = await self._request_call()
            task = asyncio.create_task(_refuse(state))
            refusing.add(task)
            task.add_done_callback(refusing.discard)


async def _refuse(state: Any) -> None:
    context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
    with contextlib.suppress(cygrpc.AbortError, CallerGone):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class _Server(Server):
    def __init__(self, *, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, None, (), (), tuple(options), None)


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
