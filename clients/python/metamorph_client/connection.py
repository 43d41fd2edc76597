"""The connection of a client, which those of other identities share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from metamorph_client.errors import MetamorphError

T = TypeVar("T")


class Connection:
    """A channel, and whether it is closed: what goes on over it ends then, and begins no more."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._loop = asyncio.get_running_loop()
        self._methods: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._closed = asyncio.Event()
        # What waits, and is not ended with the channel.
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def method(self, kind: str, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Returns what calls a method of the server. `kind` is the name of the channel's function, such as unary_unary.

        The channel is used only then, because it has crashed if it is closed. All stubs share what it makes.
        """
        key = (path, *args, *kwargs.values())

        def start(*request: Any, **options: Any) -> Any:
            made = self._methods.get(key)
            if made is None:
                made = self._methods[key] = getattr(self.channel, kind)(path, *args, **kwargs)
            return made(*request, **options)

        return start

    async def close(self) -> None:
        """Ends what goes on. Can be repeated."""
        self._closed.set()
        for running in tuple(self._running):
            running.cancel()
        await self.channel.close()

    def check(self) -> None:
        """Raises MetamorphError if it is closed, and RuntimeError in another event loop, where it cannot be used."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this client belongs to another event loop: make one in the loop that uses it")
        if self.closed:
            raise MetamorphError.closed()

    def run(self, waiting: Awaitable[T]) -> "asyncio.Future[T]":
        """Runs what waits for more than the channel, and cancels it once the connection is closed."""
        running = asyncio.ensure_future(waiting)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running

    async def pause(self, seconds: float) -> None:
        """Returns after so many seconds. Raises MetamorphError as soon as it is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        self.check()
