"""Threads that transfers have for themselves."""

import asyncio
import threading

import pytest
from metamorphd.transfers.threads import Threads


async def test_a_function_has_ended_when_its_task_is_cancelled_and_one_that_waits_is_not_run() -> None:
    threads, begun, go, ran = Threads("test", count=1), threading.Event(), threading.Event(), list[str]()

    def wait(name: str) -> None:
        begun.set()
        assert go.wait(30)
        ran.append(name)

    first, second = (asyncio.create_task(threads.run(wait, name)) for name in ("first", "second"))
    await asyncio.to_thread(begun.wait)
    second.cancel()
    await asyncio.wait({second}, timeout=30)
    assert second.cancelled()
    for _ in range(3):
        first.cancel()
        await asyncio.sleep(0.02)
        assert not first.done()
    go.set()
    await asyncio.wait({first}, timeout=30)
    assert (first.cancelled(), ran) == (True, ["first"])
    threads.close()


async def test_what_a_function_returns_or_raises_is_returned_or_raised() -> None:
    threads = Threads("test", count=1)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    threads.close()
