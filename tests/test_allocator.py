"""Memory that is freed is returned to the system."""

import asyncio

import psutil
from metamorphd.allocator import SETTLE_SECONDS, Allocator

BLOCK_BYTES = 32 * 1024
BLOCKS = 2048


async def test_pages_that_are_free_between_others_are_returned_after_a_moment() -> None:
    process = psutil.Process()
    blocks = [b"x" * BLOCK_BYTES for _ in range(BLOCKS)]
    # What is left keeps the C library from returning the rest by itself.
    kept = blocks[::64]
    del blocks
    freed = process.memory_info().rss
    Allocator().return_soon()
    returned = 0
    for _ in range(4):
        await asyncio.sleep(SETTLE_SECONDS)
        returned = max(returned, freed - process.memory_info().rss)
    assert returned > BLOCKS * BLOCK_BYTES / 2
    assert kept
