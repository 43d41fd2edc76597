"""One call at a time for each key; who comes meanwhile shares its outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls that are under way, by key. A caller that is cancelled does not cancel the call."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[T]] = {}

    def busy(self, key: Hashable) -> bool:
        """Whether a call for `key` is under way."""
        return key in self._under_way

    async def do(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `call`, or of the one that is under way for `key`. Raises what it raises."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(_run(call))
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._under_way[key]
        # Read, because whoever waited may be gone.
        if not task.cancelled():
            task.exception()


async def _run(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
