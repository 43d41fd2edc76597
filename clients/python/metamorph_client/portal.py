"""An event loop on a thread of its own, for programs that have none."""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, TypeVar

from metamorph_client.daemons import Daemons
from metamorph_client.errors import MetamorphError
from metamorph_client.replies import READER

T = TypeVar("T")
# Threads end with the portal, and there are no more of them than were ever at work at the same time.
MANY, FEW = 10_000, 16


async def _nothing() -> None:
    pass


def _threads(at_most: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(at_most, thread_name_prefix="metamorph-client")


class Portal:
    """Runs coroutines for any number of threads, which wait for them. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A function of the caller's must not wait for one that waits for it: tools and pages may call the client, whose
        # calls ask for tokens. So the former have as many threads as they use, and the latter have others.
        self._workers = _threads(MANY)
        self.token_workers = Daemons(FEW)
        self._loop.set_default_executor(self._workers)
        # A daemon, so that a program which forgets to close its client ends even so.
        self._thread = threading.Thread(target=self._loop.run_forever, name="metamorph-client", daemon=True)
        self._thread.start()
        self._process = os.getpid()
        self._closing = threading.Lock()
        self.closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Returns what a coroutine returns. Raises what it raises, and MetamorphError if the portal is closed.

        Raises RuntimeError where it would wait for ever: on the portal's own thread, and in a process that was forked.
        """
        try:
            self._check()
        except BaseException:
            coroutine.close()
            raise
        context = contextvars.copy_context()
        context.run(READER.set, threading.get_ident())
        running = context.run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
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
            # Not waited for: this may be garbage that is collected on the portal's own thread, or at the very end of
            # the program, when that thread does not run any more. What is closed has ended it.
            if not self.closed:
                asyncio.run_coroutine_threadsafe(items.aclose(), self._loop)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] = _nothing) -> None:
        """Runs one more coroutine, ends what runs, and the thread. Can be repeated."""
        if self._process != os.getpid():
            # There is no thread to be ended.
            return
        with self._closing:
            if self.closed:
                return
            self.run(last())
            self.closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            # Nor is a function of the caller's waited for, which may be the one that closes this.
            self._workers.shutdown(wait=False, cancel_futures=True)
            self.token_workers.shutdown()

    def _check(self) -> None:
        if self.closed:
            raise MetamorphError.closed()
        if self._process != os.getpid():
            raise RuntimeError("this client was made before the process was forked: make one in each process")
        if self._thread is threading.current_thread():
            raise RuntimeError("a coroutine would wait here for its own thread: call the client in asyncio.to_thread")

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
