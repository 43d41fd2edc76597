"""Threads that a program does not wait for when it ends."""

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Daemons(concurrent.futures.Executor):
    """Calls functions on daemon threads, of which there are so many at most. ThreadPoolExecutor has none of them.

    `submit` and `shutdown` are called by one thread at a time.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._threads = 0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "concurrent.futures.Future[T]":
        """Returns what a function will return."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as exc:
                future.set_exception(exc)

        self._calls.put(call)
        if not self._idle.acquire(blocking=False) and self._threads < self._at_most:
            self._threads += 1
            threading.Thread(target=self._work, name="metamorph-client-token", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends each thread once its function has returned, which is not waited for."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._idle.release()
