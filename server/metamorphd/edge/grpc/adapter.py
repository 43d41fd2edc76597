"""The gRPC adapter: exchanges from grpc.aio's contexts, and grpc.aio's handlers from ours."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from itertools import groupby
from typing import Any, NoReturn

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from metamorphd.edge.call import Metadata
from metamorphd.edge.grpc.hardened_server import Aborted, CallerGone
from metamorphd.edge.pipeline import Handler

LAST_SEND_SECONDS = 2.0


class GrpcExchange:
    """One gRPC call. `Exchange` documents the methods."""

    __slots__ = ("_context",)
    end = grpc.aio.EOF

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self._context.invocation_metadata() or ()

    def peer(self) -> str:
        return self._context.peer()

    async def read(self) -> Any:
        # It goes on if its caller is cancelled: of a read that is cancelled, grpc.aio frees neither what it has made
        # for it nor a message that arrives (https://github.com/grpc/grpc/issues/43360). The call's end ends it.
        reading = asyncio.ensure_future(self._context.read())
        reading.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(reading)
        finally:
            # Exceptions refer to this frame, and may last until the next garbage collection.
            del reading

    def write(self, response: bytes) -> Awaitable[None]:
        return self._context.write(response)

    def send_initial_metadata(self, metadata: Metadata) -> Awaitable[None]:
        return self._context.send_initial_metadata(metadata)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._context.set_trailing_metadata(metadata)

    async def abort(self, status: Status) -> NoReturn:
        try:
            # The status is queued behind responses that the caller has not read, and grpc cannot reset a stream.
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await self._context.abort_with_status(rpc_status.to_status(status))
        except (TimeoutError, CallerGone):
            # Ends the call without another attempt to send. grpc would treat an AbortError of ours as a failure.
            raise asyncio.CancelledError from None


def _retrieve(reading: asyncio.Future[Any]) -> None:
    """Takes a read's exception, so that the event loop does not report it if nobody waits for it any more."""
    if not reading.cancelled():
        reading.exception()


def register(server: grpc.aio.Server, handlers: Mapping[str, Handler]) -> None:
    """Registers handlers, by path, with a server."""
    for service, paths in groupby(sorted(handlers), key=lambda path: path.split("/")[1]):
        methods = {path.rpartition("/")[2]: _method_handler(handlers[path]) for path in paths}
        server.add_registered_method_handlers(service, methods)


def _method_handler(handler: Handler) -> Any:
    async def run(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handler.run(GrpcExchange(context))
        except Aborted as aborted:
            # grpc.aio's state of the call refers to it, and frames of its traceback to that state and to the request,
            # possibly megabytes, which would last until the next garbage collection.
            aborted.__context__ = None
            raise aborted.with_traceback(None) from None

    # Declared as request streams even for unary requests, which look the same on the wire: grpc reads a stream only on
    # demand, so a caller that is refused cannot make the server hold a request in memory.
    if handler.method.streams_responses:
        return grpc.stream_stream_rpc_method_handler(run)
    return grpc.stream_unary_rpc_method_handler(run)
