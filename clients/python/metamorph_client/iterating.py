"""Iterables that may be async, or may not."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def every(source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yields what an iterable has. One that is not async runs on a thread, because its file or queue may block."""
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
        return
    items, end = iter(source), object()
    while (found := await asyncio.to_thread(next, items, end)) is not end:
        yield found  # type: ignore[misc]  # `end` is of another type, and no item
