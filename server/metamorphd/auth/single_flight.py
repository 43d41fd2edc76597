"""One call at a time for each key; concurrent callers share the result."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls in flight, by key. Cancelling a caller does not cancel the call."""

    def __init__(self) -> None:
        self._in_flight: dict[Hashable, asyncio.Task[T]] = {}

    async def close(self) -> None:
        """Cancels every call in flight, and returns once they have ended."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def do(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of `call`, or of the call in flight for `key`. Raises what that raises."""
        task = self._in_flight.get(key)
        # One that has ended stays here until the event loop gets to its callback, and to wait for it does not wait.
        if task is None or task.done():
            task = self._in_flight[key] = asyncio.ensure_future(_run(call))
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        if self._in_flight.get(key) is task:
            del self._in_flight[key]
        # Read the exception: asyncio would log it if every caller was cancelled.
        if not task.cancelled():
            task.exception()


async def _run(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
