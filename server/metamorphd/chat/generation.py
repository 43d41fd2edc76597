"""Reads one reply from the model."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, replace

import structlog

from metamorphd.chat.meter import Meter, Tariff
from metamorphd.chat.pace import Pace
from metamorphd.chat.pending_events import Pending
from metamorphd.chat.reply_size import ReplySize
from metamorphd.chat.rounds import MOST_CALLS, Rounds
from metamorphd.chat.said import Said
from metamorphd.errors import DomainError, Internal, TurnInterrupted, TurnTimeout
from metamorphd.llm.interface import (
    Model,
    Prompt,
    ReplyBlock,
    ReplyEvent,
    ReplyStop,
    ReplyThinkingEnd,
    ReplyToolResult,
    ReplyUsage,
)
from metamorphd.models.content import Content, ThinkingBlock, recalled_in
from metamorphd.models.turn import MiddleEvent, StopDetails, StopReason, TurnError, TurnStatus
from metamorphd.models.usage import Usage, total

FIRST_COMMIT_SECONDS = 0.05
READ_ON_SECONDS = 1.0
# A batch of this size shows that the stream is faster than the pace, and that more of it is waiting.
FAST_EVENTS = 64

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a turn: what its last event reports, besides the reply and its usage."""

    status: TurnStatus
    stop_reason: StopReason | None = None
    error: TurnError | None = None
    stop_details: StopDetails | None = None

    @classmethod
    def of(cls, status: TurnStatus, error: DomainError) -> "Outcome":
        """Returns the outcome of a turn that ends with an error."""
        return cls(
            status, error=TurnError(error.reason_name(), str(error), error.metadata, retry_delay=error.retry_delay)
        )


def interrupted() -> Outcome:
    """Returns the outcome of a turn whose server stops."""
    return Outcome.of(TurnStatus.INTERRUPTED, TurnInterrupted())


class Generation:
    """The calls of a turn to the model, which are read no faster than their events are taken. Untaken deltas are joined
    by block. There is one, unless the server runs tools that the model calls.

    A reply that reaches the largest size of a message ends there, as MAX_TOKENS, and so does the call. `prompt` is
    given what was said before.

    `usage` is what it has used so far. `closed` has the completed thinking blocks, without their text, by block index.
    """

    def __init__(
        self,
        *,
        model: Model,
        prompt: Callable[[Content], AbstractAsyncContextManager[Prompt]],
        rounds: Rounds,
        tariff: Tariff,
        time_limit: float,
        pace: Pace,
    ) -> None:
        self.model_calls = 0
        self.closed: dict[int, ThinkingBlock] = {}
        self.outcome: Outcome | None = None
        self._model = model
        self._prompt = prompt
        self._tariff = tariff
        self._rounds = rounds
        self._said = Said()
        self._first_block = 0
        self._meters: list[Meter] = []
        self._time_limit = time_limit
        self._pace = pace
        self._pending = Pending()
        self._size = ReplySize()
        self._ready = asyncio.Event()
        self._taken = asyncio.Event()
        self._moment = asyncio.Event()
        self._shown = asyncio.Event()
        self._stopped: Outcome | None = None
        self._task = asyncio.create_task(self._run())
        # A callback, because a task that is cancelled before its first step runs none of its own code.
        self._task.add_done_callback(self._end)

    @property
    def usage(self) -> Usage:
        """Returns the usage so far, also that of a reply that was cut off."""
        return total(meter.usage for meter in self._meters)

    def stop(self, outcome: Outcome) -> None:
        """Ends the call to the model. The turn ends with `outcome`, unless the reply is already complete."""
        self._stopped = outcome
        self._task.cancel()

    def take(self, turn_id: str, *, first_sequence: int) -> list[MiddleEvent]:
        """Returns what was read since the last call, as the turn's next events."""
        taken = self._pending.take(turn_id, first_sequence=first_sequence, ended=self.outcome is not None)
        if self.outcome is None:
            self._ready.clear()
        self._taken.set()
        return taken

    async def ready(self) -> None:
        """Returns once there is something to take, or the outcome is known."""
        await self._ready.wait()

    def shown(self) -> None:
        """Is called when the events that were taken are committed and published."""
        self._shown.set()

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._time_limit):
                self.outcome = await self._read()
        except TimeoutError:
            self.outcome = Outcome.of(TurnStatus.FAILED, TurnTimeout())
        except DomainError as error:
            self.outcome = Outcome.of(TurnStatus.FAILED, error)
        except Exception:
            logger.exception("generation failed")
            self.outcome = Outcome.of(TurnStatus.FAILED, Internal())

    def _end(self, task: asyncio.Task[None]) -> None:
        if self.outcome is None:
            self.outcome = self._stopped or Outcome.of(TurnStatus.FAILED, Internal())
        self._ready.set()

    async def _read(self) -> Outcome:
        while True:
            outcome = await self._call()
            if outcome.stop_reason is not StopReason.TOOL_USE or not self._rounds.tools:
                return outcome
            calls = list(filter(self._rounds.runs, self._said.pending()))
            if not calls:
                return outcome
            for call in calls:
                self._add(ReplyToolResult(self._said.blocks, await self._rounds.run(call)))
            self._ready.set()
            if self._size.full:
                return Outcome(TurnStatus.COMPLETED, StopReason.MAX_TOKENS)
            if self._said.pending():
                # The caller's.
                return outcome
            if self.model_calls >= MOST_CALLS:
                return Outcome(TurnStatus.COMPLETED, StopReason.PAUSE)
            self._first_block = self._said.blocks
            self._pending.expect_usage()

    async def _call(self) -> Outcome:
        """Calls the model once, and returns the outcome if nothing follows."""
        async with AsyncExitStack() as sending:
            prompt = await sending.enter_async_context(self._prompt(self._said.content()))
            meter = Meter(self._tariff, prompt)
            if self._meters:
                await self._rounds.admit(used=self.usage, most=meter.most)
            else:
                self._pending.set_recalled(recalled_in(prompt.messages[-1].content))
            self._meters.append(meter)
            reply = self._model.generate(prompt)
            # It may be of megabytes.
            del prompt
            self.model_calls += 1
            try:
                return await self._read_reply(reply, meter, sending)
            except DomainError:
                meter.fail()
                raise

    async def _read_reply(
        self, reply: AsyncGenerator[Sequence[ReplyEvent]], meter: Meter, sending: AsyncExitStack
    ) -> Outcome:
        """Reads a reply to its end. Leaves `sending`, which holds the prompt, once the reply has begun."""
        async with aclosing(reply) as batches:
            begun = shown = False
            async for batch in batches:
                if not begun:
                    begun = True
                    await sending.aclose()
                for event in batch:
                    match event:
                        case ReplyUsage():
                            meter.read(event)
                            if self._pending.wants_usage:
                                self._pending.set_usage(self._reported(meter))
                        case ReplyStop(stop_reason, details):
                            return Outcome(TurnStatus.COMPLETED, stop_reason, stop_details=details)
                        case _:
                            self._add(self._in_turn(event))
                            if not shown and self._pending:
                                shown = True
                                self._ready.set()
                                await self._first_shown()
                    if self._size.full:
                        return Outcome(TurnStatus.COMPLETED, StopReason.MAX_TOKENS)
                if self._pending:
                    self._ready.set()
                    await self._read_on(at_once=len(batch) >= FAST_EVENTS)
        raise RuntimeError("the model ended a reply without ReplyStop")

    def _in_turn(self, event: ReplyBlock) -> ReplyBlock:
        """Returns an event of a call as one of the turn, whose blocks are counted through."""
        if not self._first_block:
            return event
        return replace(event, block_index=self._first_block + event.block_index)

    def _reported(self, meter: Meter) -> Usage | None:
        """Returns what was reported of the turn so far, or None if nothing is of the call that goes on."""
        reported = meter.reported
        return None if reported is None else total([*(each.usage for each in self._meters[:-1]), reported])

    def _add(self, event: ReplyBlock) -> None:
        """Adds what of an event still fits in the reply."""
        fitting = self._size.fitting(event)
        if fitting is not None and self._rounds.tools:
            self._said.add(fitting)
        if isinstance(fitting, ReplyThinkingEnd):
            self.closed[fitting.block_index] = fitting.block
        elif fitting is not None:
            self._pending.add(fitting)

    async def _read_on(self, *, at_once: bool) -> None:
        """Waits for the pace's next moment, or, without a pace or `at_once`, until the events are taken.

        What arrives in the meantime is read together, which takes one wake-up per commit instead of one per word.
        """
        self._moment.clear()
        if not at_once and self._pace.wake(self._moment):
            await self._moment.wait()
        elif self._pending:
            self._taken.clear()
            # A store that accepts no writes must not keep the provider waiting forever.
            timer = asyncio.get_running_loop().call_later(READ_ON_SECONDS, self._taken.set)
            await self._taken.wait()
            timer.cancel()

    async def _first_shown(self) -> None:
        """Waits for the commit of the first delta. Reading on would hold the GIL, and delay it by milliseconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_COMMIT_SECONDS):
                await self._shown.wait()
