"""Reads files of imports on the event loop, a little at a time.

Not on a thread: one that computes without end takes the GIL from the event loop and the writer whenever they wait for
something, and then all calls together are slower than the two of them would be in turns.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

from metamorphd.models.imports import Line
from metamorphd.transfers.verification import WHOLE, Part, Verified, Verifying, line_of

T = TypeVar("T")

READ_BYTES = 256 * 1024
# Others have the event loop after so long.
TURN_SECONDS = 0.0005
# To hash so much takes longer, and does not need the GIL.
LARGE_BYTES = 65_536


async def with_pauses(items: Iterable[T]) -> AsyncGenerator[T]:
    """Yields items, and lets others use the event loop in between."""
    until = time.monotonic() + TURN_SECONDS
    for item in items:
        yield item
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + TURN_SECONDS


async def verify(path: Path) -> Verified:
    """Reads all of a file. Raises Refused."""
    verifying = Verifying()
    async with aclosing(_blocks(path, WHOLE)) as blocks:
        async for block in blocks:
            async for text in with_pauses(block):
                if len(text) > LARGE_BYTES:
                    await asyncio.to_thread(verifying.add, text)
                else:
                    verifying.add(text)
    return verifying.verified()


async def read(path: Path, part: Part = WHOLE) -> AsyncGenerator[list[Line]]:
    """Yields the records of a part of a file that was verified, some at a time, without header and trailer."""
    number, left = part.number, part.end - part.start
    async with aclosing(_blocks(path, part)) as blocks:
        async for block in blocks:
            lines: list[Line] = []
            async for text in with_pauses(block):
                if left <= 0:
                    break
                left -= len(text)
                line = line_of(number, text)
                number += 1
                if line.kind not in ("header", "trailer"):
                    lines.append(line)
            yield lines
            if left <= 0:
                return


async def _blocks(path: Path, part: Part) -> AsyncGenerator[list[bytes]]:
    # Not on a thread: if the caller is cancelled meanwhile, nobody would close the file.
    with open(path, "rb") as file:  # noqa: ASYNC230
        file.seek(part.start)
        while block := await asyncio.to_thread(file.readlines, READ_BYTES):
            yield block
