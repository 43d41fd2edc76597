"""An event loop on a thread of its own, for programs that have none."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

from metamorph_client.errors import MetamorphError

T = TypeVar("T")


class Portal:
    """Runs coroutines for any number of threads, which wait for them. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a program which forgets to close its client ends even so.
        self._thread = threading.Thread(target=self._loop.run_forever, name="metamorph-client", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()
        self.closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Returns what a coroutine returns. Raises what it raises, and MetamorphError if the portal is closed."""
        if self.closed:
            coroutine.close()
            raise MetamorphError.closed()
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        except concurrent.futures.CancelledError:
            raise MetamorphError.closed() from None
        except BaseException:
            # Such as KeyboardInterrupt, for which nobody else ends it.
            running.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """Yields what an async generator yields, and closes it."""

        async def following() -> tuple[T, ...]:
            async for item in items:
                return (item,)
            return ()

        try:
            while found := self.run(following()):
                yield found[0]
        finally:
            if not self.closed:
                self.run(items.aclose())

    def close(self) -> None:
        """Ends what runs, and the thread. Can be repeated."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()
