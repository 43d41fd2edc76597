"""The events of a turn, which survive what breaks connections: cuts, restarts, tokens that expire, limits."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from metamorph_client.calls import resumed
from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest, StreamTurnRequest
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING, TurnEvent, TurnFinished
from metamorph_client.connection import Connection
from metamorph_client.errors import CALL_ID, MetamorphError, TokenFailed

if TYPE_CHECKING:
    from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceAsyncStub

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0
# How long a stream may stay open after its last event.
END_SECONDS = 1.0


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
        self._goes_on = False

    def accepted(self) -> None:
        """Notes that something goes on, so that a token function that fails now is asked again."""
        self._goes_on = True

    def progress(self) -> None:
        """Starts anew, because something has arrived."""
        self._attempts, self._failing_since, self._goes_on = 0, None, True

    async def wait(self, error: MetamorphError) -> None:
        """Waits before the next attempt. Raises the error if none can help, or it would come too late.

        What a token function has raised is raised itself then, and at once if nothing goes on yet.
        """
        raised = error.failure if isinstance(error, TokenFailed) else error
        now = asyncio.get_running_loop().time()
        self._failing_since = now if self._failing_since is None else self._failing_since
        delay = _backoff(self._attempts) if error.retry_delay is None else error.retry_delay
        hopeless = not error.resumable or (raised is not error and not self._goes_on)
        if hopeless or now + delay - self._failing_since > self._give_up_after:
            raise raised from raised.__cause__
        answer = self._on_retry(error)
        if isinstance(answer, Awaitable):
            await answer
        await self._connection.pause(delay)
        self._attempts += 1
        self._goes_on = True


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
        # What can end the step that somebody waits for.
        self._waiting: asyncio.Timeout | None = None
        self.closings = 0
        # What `begin` has had to read.
        self._begun: TurnEvent | None = None
        self._over = False
        self.finished: TurnFinished | None = None
        self.revision = 0

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

    async def last(self) -> TurnFinished:
        """Returns the last event's content, to which it reads on."""
        async for _ in self:
            pass
        if self.finished is None:
            # The turn was followed from that event.
            before = Resuming(self._chat, self._patience, turn_id=self.turn_id, after_sequence=self._sequence - 1)
            self.finished = await before.last()
            self.revision = before.revision
        return self.finished

    async def aclose(self) -> None:
        """Ends the stream, and the iteration of those who wait for its events."""
        self.closings += 1
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
            self._waiting = None
        await self.leave()

    async def leave(self) -> None:
        """Ends the stream, once nobody waits for its next event."""
        async with self._stepping:
            steps, self._steps = self._steps, None
            if steps is not None:
                await steps.aclose()

    async def _step(self) -> TurnEvent | None:
        closings = self.closings
        # Several tasks may wait for the same end.
        async with self._stepping:
            if closings != self.closings:
                raise StopAsyncIteration
            return await self._next_step()

    async def _next_step(self) -> TurnEvent | None:
        if self._steps is None:
            self._steps = self._streamed()
        waiting = asyncio.timeout(None)
        try:
            async with waiting:
                self._waiting = waiting
                return await anext(self._steps)
        except BaseException as exc:
            # It has ended.
            self._steps = None
            if waiting.expired() and isinstance(exc, TimeoutError):
                raise StopAsyncIteration from None
            raise
        finally:
            self._waiting = None

    async def _streamed(self) -> AsyncGenerator[TurnEvent | None]:
        """Yields the events to the end of the turn, and None where a stream is accepted."""
        while self.finished is None and not self._over:
            call = self._call()
            try:
                # A refusal has no metadata but that of its end, which has another name here.
                if any(key == CALL_ID for key, _ in await call.initial_metadata()):
                    self._patience.accepted()
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
            return resumed(self._start())
        request = StreamTurnRequest(turn_id=self.turn_id, after_sequence=self._sequence)
        return resumed(self._chat.StreamTurn(request))

    async def _new(self, call: Any) -> AsyncIterator[TurnEvent]:
        first, responses = True, aiter(call)
        while (response := await self._response(responses)) is not None:
            event = response.event
            is_next, first = _is_next(event, self._sequence, first=first), False
            if is_next:
                self.turn_id, self._sequence = event.turn_id, event.sequence
                self.revision = max(self.revision, response.revision)
                if event.HasField("turn_finished"):
                    self.finished = event.turn_finished
                self._patience.progress()
                yield event

    async def _response(self, responses: AsyncIterator[Any]) -> Any:
        """Returns the next response, or None at the end, for which it does not wait long after the last event."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self.finished is None else END_SECONDS):
                return await anext(responses, None)
        return None

    async def _is_over(self) -> bool:
        """Returns whether a turn that is followed has no event after a sequence, and will have none.

        StreamTurn ends OK without an event then, and no other stream does.
        """
        if self._start is not None:
            return False
        turn = (await resumed(self._chat.GetTurn(GetTurnRequest(turn_id=self.turn_id)))).turn
        return turn.status != TURN_STATUS_RUNNING and turn.last_sequence <= self._sequence


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
