"""Replies that survive what breaks connections: cuts, restarts, tokens that expire, limits."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest, StreamTurnRequest
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING, Turn, TurnEvent, TurnFinished
from metamorph_client.connection import Connection
from metamorph_client.errors import CALL_ID, MetamorphError

if TYPE_CHECKING:
    from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceAsyncStub

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0


class Patience:
    """How long a client goes on trying: until `give_up_after` seconds have passed without progress."""

    def __init__(
        self, connection: Connection, give_up_after: float, on_retry: Callable[[MetamorphError], object]
    ) -> None:
        self._connection = connection
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
        answer = self._on_retry(error)
        if isinstance(answer, Awaitable):
            await answer
        await self._connection.pause(delay)
        self._attempts += 1


class Resuming:
    """The events of a turn after a sequence, each once and in order, over as many streams as it takes.

    Raises MetamorphError. To iterate again after an error, or after `aclose`, goes on after the last event.
    """

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
        self.turn_id = turn_id
        self._sequence = after_sequence
        self._steps: AsyncGenerator[TurnEvent | None] | None = None
        self._stepping = asyncio.Lock()
        # What `begin` has had to read.
        self._begun: TurnEvent | None = None
        self._over = False
        self.finished: TurnFinished | None = None

    async def begin(self) -> None:
        """Returns once the turn is stored, or is found if it is followed. Raises what refuses it."""
        if self._start is not None:
            self._begun = await anext(self)
            return
        with suppress(StopAsyncIteration):
            self._begun = await self._step()

    def __aiter__(self) -> AsyncIterator[TurnEvent]:
        return self

    async def __anext__(self) -> TurnEvent:
        event, self._begun = self._begun, None
        while event is None:
            event = await self._step()
        return event

    async def final(self) -> TurnFinished:
        """Returns the last event's content, to which it reads on."""
        async for _ in self:
            pass
        if self.finished is None:
            # The turn was followed from that event.
            before = Resuming(self._chat, self._patience, turn_id=self.turn_id, after_sequence=self._sequence - 1)
            self.finished = await before.final()
        return self.finished

    async def aclose(self) -> None:
        """Ends the stream."""
        steps, self._steps = self._steps, None
        if steps is not None:
            await steps.aclose()

    async def _step(self) -> TurnEvent | None:
        # Several tasks may wait for the same end.
        async with self._stepping:
            return await self._next_step()

    async def _next_step(self) -> TurnEvent | None:
        if self._steps is None:
            self._steps = self._streamed()
        try:
            return await anext(self._steps)
        except BaseException:
            # It has ended.
            self._steps = None
            raise

    async def _streamed(self) -> AsyncGenerator[TurnEvent | None]:
        """Yields the events to the end of the turn, and None where a stream is accepted."""
        while self.finished is None and not self._over:
            call = self._call()
            try:
                # A refusal has no metadata but that of its end, which has another name here.
                if any(key == CALL_ID for key, _ in await call.initial_metadata()):
                    yield None
                async for event in self._new(call):
                    yield event
                self._over = self.finished is not None or await self._is_over()
                if not self._over:
                    raise MetamorphError.incomplete(
                        f"the stream ended after event {self._sequence}, before TurnFinished"
                    )
            except MetamorphError as error:
                if self.finished is not None:
                    return
                await self._patience.wait(error)
            finally:
                call.cancel()

    def _call(self) -> Any:
        if self._start is not None and not self.turn_id:
            # The same request_id replays the turn from its first event.
            return self._start()
        return self._chat.StreamTurn(StreamTurnRequest(turn_id=self.turn_id, after_sequence=self._sequence))

    async def _new(self, call: Any) -> AsyncIterator[TurnEvent]:
        first = True
        async for response in call:
            event = response.event
            is_next, first = _is_next(event, self._sequence, first=first), False
            if is_next:
                self.turn_id, self._sequence = event.turn_id, event.sequence
                if event.HasField("turn_finished"):
                    self.finished = event.turn_finished
                self._patience.progress()
                yield event

    async def _is_over(self) -> bool:
        """Returns whether a turn that is followed has no event after a sequence, and will have none.

        StreamTurn ends OK without an event then, and no other stream does.
        """
        if self._start is not None:
            return False
        turn = (await self._chat.GetTurn(GetTurnRequest(turn_id=self.turn_id))).turn
        return turn.status != TURN_STATUS_RUNNING and turn.last_sequence <= self._sequence


class Reply:
    """The reply of a turn. Iterate over it for its events, each of which arrives once, and in order.

    Leaving the loop, or `aclose`, ends the stream only: the turn goes on, and its reply is stored. Another loop goes on
    after the last event that was seen, as `text` and `final` do. `cancel` stops the turn.
    """

    def __init__(self, events: Resuming, cancel: Callable[[str], Awaitable[Turn]]) -> None:
        self.turn_id = events.turn_id
        self._events = events
        self._cancel = cancel

    @classmethod
    async def begin(cls, events: Resuming, cancel: Callable[[str], Awaitable[Turn]]) -> Self:
        """Returns a reply once its turn is stored, or found if it is followed. Raises what refuses it."""
        await events.begin()
        return cls(events, cancel)

    @property
    def finished(self) -> TurnFinished | None:
        """How the turn has ended, if that was read."""
        return self._events.finished

    def __aiter__(self) -> AsyncIterator[TurnEvent]:
        return self

    async def __anext__(self) -> TurnEvent:
        return await anext(self._events)

    async def final(self) -> TurnFinished:
        """Returns how the turn has ended, with the stored message, once it has. Raises MetamorphError.

        A turn that has failed is no error here: `status` says so.
        """
        return await self._events.final()

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
