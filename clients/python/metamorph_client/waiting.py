"""The stubs of the client without asyncio: each call waits on the portal's event loop."""

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NoReturn

import grpc

from metamorph_client.iterating import every
from metamorph_client.portal import Portal

_INSTEAD = "call the method itself, on a thread if it is not to be waited for, or use MetamorphClient"


class WaitingChannel:
    """Makes the calls of stubs from those of an async channel."""

    def __init__(self, channel: grpc.aio.Channel, portal: Portal) -> None:
        self._channel = channel
        self._portal = portal

    def unary_unary(self, *args: Any, **kwargs: Any) -> "Method":
        return self._response(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> "Method":
        return self._responses(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> "Method":
        start = self._response(self._channel.stream_unary(*args, **kwargs))
        return Method(lambda requests, **options: start(every(requests), **options))

    def stream_stream(self, *args: Any, **kwargs: Any) -> "Method":
        start = self._responses(self._channel.stream_stream(*args, **kwargs))
        return Method(lambda requests, **options: start(every(requests), **options))

    def _response(self, start: Callable[..., Any]) -> "Method":
        def call(request: Any, **options: Any) -> Any:
            async def made() -> Any:
                return await start(request, **options)

            return self._portal.run(made())

        return Method(call)

    def _responses(self, start: Callable[..., Any]) -> "Method":
        def call(request: Any, **options: Any) -> Responses:
            async def made() -> AsyncGenerator[Any]:
                started = start(request, **options)
                try:
                    async for response in started:
                        yield response
                finally:
                    started.cancel()

            return Responses(made(), self._portal)

        return Method(call)


class Method:
    """A method of a stub. It can be called, and not what else its type in gRPC promises."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, request: Any, **options: Any) -> Any:
        return self._call(request, **options)

    def with_call(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(f"with_call is not in SyncMetamorphClient: {_INSTEAD}")

    def future(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(f"future is not in SyncMetamorphClient: {_INSTEAD}")


class Responses:
    """A stream of responses. The call starts when the first one is asked for."""

    def __init__(self, responses: AsyncGenerator[Any], portal: Portal) -> None:
        self._items = portal.iterate(responses)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def cancel(self) -> None:
        """Ends the stream."""
        self._items.close()
