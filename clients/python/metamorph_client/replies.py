"""Replies, which can be read by one after the other, left, and taken up again."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Self

import grpc

from metamorph_client.chat.v1.turn_pb2 import Turn, TurnEvent, TurnFinished
from metamorph_client.errors import MetamorphError
from metamorph_client.resuming import Resuming

# Who reads, if that is not the task that does.
READER: ContextVar[object] = ContextVar("metamorph_client.reader")


class _Loop:
    """A loop over a reply, and who runs it."""

    def __init__(self, closings: int) -> None:
        self.closings = closings
        self.reader = _reader()
        self.ended = asyncio.Event()


class Reply:
    """The reply of a turn. Iterate over it for its events, each of which arrives once, and in order.

    Leaving the loop, or `aclose`, ends the stream only: the turn goes on, and its reply is stored. Another loop goes on
    after the last event that was seen, as `text` and `final` do. They wait for the loop of another task. `cancel` stops
    the turn.
    """

    def __init__(self, events: Resuming, cancel: Callable[[str], Awaitable[Turn]]) -> None:
        self.turn_id = events.turn_id
        self._events = events
        self._cancel = cancel
        self._loop: _Loop | None = None

    @classmethod
    async def begin(cls, events: Resuming, cancel: Callable[[str], Awaitable[Turn]]) -> Self:
        """Returns a reply once its turn is stored, or found if it is followed. Raises what refuses it."""
        await events.begin()
        return cls(events, cancel)

    @property
    def finished(self) -> TurnFinished | None:
        """How the turn has ended, if that was read."""
        return self._events.finished

    @property
    def revision(self) -> int:
        """The vault's revision, or a later one, once the last event with one was stored, or 0 if none has arrived."""
        return self._events.revision

    async def __aiter__(self) -> AsyncGenerator[TurnEvent]:
        # A generator of its own, which Python closes when its loop is left.
        loop = _Loop(self._events.closings)
        try:
            while (event := await self._next(loop)) is not None:
                yield event
        finally:
            await self._leave(loop)

    async def __anext__(self) -> TurnEvent:
        """Returns the next event. Nothing but `aclose`, or the end of the turn, ends the stream after it."""
        if self._loop is not None and self._loop.reader == _reader():
            self._loop = None
        return await anext(self._events)

    async def final(self) -> TurnFinished:
        """Returns how the turn has ended, with the stored message, once it has. Raises MetamorphError.

        A turn that has failed is no error here: `status` says so. If another task has a loop over the reply, that loop
        has all events, and this waits until it has ended.
        """
        await self._others()
        closings = self._events.closings
        async with aclosing(aiter(self)) as events:
            async for _ in events:
                pass
        if self.finished is None and closings != self._events.closings:
            raise MetamorphError(grpc.StatusCode.CANCELLED, "", "the reply was closed", resumable=False)
        return await self._events.last()

    async def text(self) -> AsyncGenerator[str]:
        """Yields the text as it arrives. Raises MetamorphError."""
        async with aclosing(aiter(self)) as events:
            async for event in events:
                if event.HasField("text_delta"):
                    yield event.text_delta.text

    async def cancel(self) -> Turn:
        """Stops the turn, and returns it. What was generated so far is kept, and the events still come to an end."""
        return await self._cancel(self.turn_id)

    async def aclose(self) -> None:
        """Ends the stream, and the loops over it, as if they were left. The turn goes on."""
        await self._events.aclose()

    async def _next(self, loop: _Loop) -> TurnEvent | None:
        await self._others(loop)
        # A loop within another one, or after one that is not collected yet, takes its place.
        self._loop, loop.reader = loop, _reader()
        return await anext(self._events, None) if loop.closings == self._events.closings else None

    async def _others(self, loop: _Loop | None = None) -> None:
        """Returns once there is no loop of another reader."""
        while (other := self._loop) is not None and other is not loop and other.reader != _reader():
            await other.ended.wait()

    async def _leave(self, loop: _Loop) -> None:
        loop.ended.set()
        if self._loop is loop:
            self._loop = None
            await self._events.leave()


def _reader() -> object:
    return READER.get(None) or asyncio.current_task()
