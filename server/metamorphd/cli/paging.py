"""Reads the pages of lists."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from metamorph_client import MetamorphError

Page = TypeVar("Page")
PAGE_SIZE = 200


async def pages(
    method: Callable[[Any], Awaitable[Page]],
    request: Any,
    *,
    limit: int | None = None,
    rows: Callable[[Page], Any] = lambda _: (),
    page_size: int = PAGE_SIZE,
) -> AsyncIterator[Page]:
    """Yields the pages that answer a request, one at a time, until they have `limit` rows.

    `rows` returns the rows of a page, which are counted if there is a limit. Waits if the rate limit has it wait.
    Raises MetamorphError.
    """
    left = limit
    while left is None or left > 0:
        request.page_size = page_size if left is None else min(left, page_size)
        page = await _once_allowed(method, request)
        yield page
        left = None if left is None else left - len(rows(page))
        request.page_token = page.next_page_token  # type: ignore[attr-defined]
        if not request.page_token:
            return


async def _once_allowed(method: Callable[[Any], Awaitable[Page]], request: Any) -> Page:
    while True:
        try:
            return await method(request)
        except MetamorphError as refusal:
            if refusal.reason != "RATE_LIMITED" or refusal.retry_delay is None:
                raise
            await asyncio.sleep(refusal.retry_delay)
