"""Replies that survive what breaks connections: cuts, restarts, tokens that expire, limits."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest, StreamTurnRequest
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING, Turn, TurnEvent, TurnFinished
from metamorph_client.errors import MetamorphError

if TYPE_CHECKING:
    from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceAsyncStub

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0


class Patience:
    """How long a client goes on trying: until `give_up_after` seconds have passed without progress."""

    def __init__(self, give_up_after: float, on_retry: Callable[[MetamorphError], object]) -> None:
        self._give_up_after = give_up_after
        self._on_retry = on_retry
        self._attempts = 0
        self._failing_since: float | None = None

    def progress(self) -> None:
        """Starts anew, because something has arrived."""
        self._attempts, self._failing_since = 0, None

    async def wait(self, error: MetamorphError) -> None:
        """Waits before the next attempt. Raises the error if none can help, or it would come too late."""
        now = asyncio.get_running_loop().time()
        self._failing_since = now if self._failing_since is None else self._failing_since
        delay = _backoff(self._attempts) if error.retry_delay is None else error.retry_delay
        if not error.resumable or now + delay - self._failing_since > self._give_up_after:
            raise error
        self._on_retry(error)
        await asyncio.sleep(delay)
        self._attempts += 1


class Resuming:
    """The events of a turn after a sequence, each once and in order, over as many streams as it takes."""

    def __init__(
        self,
        chat: "ChatServiceAsyncStub",
        patience: Patience,
        *,
        start: Callable[[], Any] | None = None,
        turn_id: str = "",
        after_sequence: int = 0,
    ) -> None:
        self._chat = chat
        self._patience = patience
        self._start = start
        self._turn_id = turn_id
        self._sequence = after_sequence
        self._finished = False

    async def events(self) -> AsyncGenerator[TurnEvent]:
        """Yields the events, to the end of the turn. Raises MetamorphError."""
        while True:
            call = self._call()
            try:
                async for event in self._new(call):
                    yield event
                if self._finished or await self._is_over():
                    return
                raise MetamorphError.incomplete(f"the stream ended after event {self._sequence}, before TurnFinished")
            except MetamorphError as error:
                if self._finished:
                    return
                await self._patience.wait(error)
            finally:
                call.cancel()

    def _call(self) -> Any:
        if self._start is not None and not self._turn_id:
            # The same request_id replays the turn from its first event.
            return self._start()
        return self._chat.StreamTurn(StreamTurnRequest(turn_id=self._turn_id, after_sequence=self._sequence))

    async def _new(self, call: Any) -> AsyncIterator[TurnEvent]:
        first = True
        async for response in call:
            event = response.event
            is_next, first = _is_next(event, self._sequence, first=first), False
            if is_next:
                self._turn_id, self._sequence = event.turn_id, event.sequence
                self._finished = event.HasField("turn_finished")
                self._patience.progress()
                yield event

    async def _is_over(self) -> bool:
        """Returns whether a turn that is followed has no event after a sequence, and will have none.

        StreamTurn ends OK without an event then, and no other stream does.
        """
        if self._start is not None:
            return False
        turn = (await self._chat.GetTurn(GetTurnRequest(turn_id=self._turn_id))).turn
        return turn.status != TURN_STATUS_RUNNING and turn.last_sequence <= self._sequence


class Reply:
    """The reply of a turn that has started. Iterate over it for its events, each of which arrives once, and in order.

    Leaving the loop, or `aclose`, ends the stream only: the turn goes on, and its reply is stored. `cancel` stops it.
    """

    def __init__(
        self, turn_id: str, events: AsyncGenerator[TurnEvent], cancel: Callable[[str], Awaitable[Turn]]
    ) -> None:
        self.turn_id = turn_id
        self._events = events
        self._cancel = cancel
        self._finished: TurnFinished | None = None

    @classmethod
    async def begin(cls, events: AsyncGenerator[TurnEvent], cancel: Callable[[str], Awaitable[Turn]]) -> Self:
        """Returns a reply once its turn is stored, which its first event says. Raises what refuses it."""
        first = await anext(events)

        async def all_events() -> AsyncGenerator[TurnEvent]:
            try:
                yield first
                async for event in events:
                    yield event
            finally:
                await events.aclose()

        return cls(first.turn_id, all_events(), cancel)

    def __aiter__(self) -> AsyncIterator[TurnEvent]:
        return self

    async def __anext__(self) -> TurnEvent:
        event = await anext(self._events)
        if event.HasField("turn_finished"):
            self._finished = event.turn_finished
        return event

    async def final(self) -> TurnFinished:
        """Returns how the turn has ended, with the stored message, once it has. Raises MetamorphError.

        A turn that has failed is no error here: `status` says so.
        """
        async for _ in self:
            pass
        if self._finished is None:
            raise RuntimeError("this reply was left before its end; follow its turn for the rest")
        return self._finished

    async def text(self) -> AsyncGenerator[str]:
        """Yields the text as it arrives. Raises MetamorphError."""
        async for event in self:
            if event.HasField("text_delta"):
                yield event.text_delta.text

    async def cancel(self) -> Turn:
        """Stops the turn, and returns it. What was generated so far is kept, and the events still come to an end."""
        return await self._cancel(self.turn_id)

    async def aclose(self) -> None:
        """Ends the stream. The turn goes on."""
        await self._events.aclose()


def _is_next(event: TurnEvent, sequence: int, *, first: bool) -> bool:
    """Returns whether an event continues a sequence, or False for a repeated one. Raises MetamorphError for a gap.

    TurnFinished may be the first of a stream whatever the sequence, because the others may have expired.
    """
    if event.sequence > sequence + 1 and not (first and event.HasField("turn_finished")):
        raise MetamorphError.incomplete(f"event {event.sequence} follows event {sequence}")
    return event.sequence > sequence


def _backoff(attempts: int) -> float:
    """Returns an exponential delay with full jitter, in seconds (AWS Architecture Blog, 2015)."""
    return random.SystemRandom().uniform(0, min(FIRST_BACKOFF * 2**attempts, LONGEST_BACKOFF))
