"""Threads of their own for what waits for a disk: those of the event loop's pool parse the requests of others."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """So many threads, until they are closed. What waits for one has it in turn."""

    def __init__(self, name: str, *, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function on a thread, and returns its result.

        If the task is cancelled meanwhile, it is so once the function has ended: what that uses can be closed then. One
        that has not begun is not run.
        """
        begun = self._executor.submit(function, *args, **kwargs)
        ended = asyncio.wrap_future(begun)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not begun.cancel():
                await _done(ended)
            raise

    def close(self) -> None:
        """Ends the threads, each with what it does."""
        self._executor.shutdown(wait=False)


async def _done(ended: asyncio.Future[T]) -> None:
    while not ended.done():
        # Cancelled twice, it waits all the same.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({ended})
    # Nobody asks for it any more.
    ended.exception()
