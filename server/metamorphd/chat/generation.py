"""Reading one reply from the model."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from metamorphd.errors import DomainError, Internal, TurnTimeout
from metamorphd.llm.model import Model, Prompt, ReplyStop, ReplyText, ReplyUsage
from metamorphd.models import StopReason, TurnError, TurnStatus, Usage

# A delta is cut here, so that an event stays far below the 3 MiB that a client accepts.
DELTA_CHARACTERS = 65_536
# Events that the SDK has buffered come without suspending; others must get their turn between them.
YIELD_EVERY = 16
FIRST_COMMIT_SECONDS = 0.05

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ends."""

    status: TurnStatus
    stop_reason: StopReason | None = None
    error: TurnError | None = None

    @classmethod
    def of(cls, status: TurnStatus, error: DomainError) -> "Outcome":
        """Ends a turn with an error."""
        return cls(
            status, error=TurnError(error.reason_name(), str(error), error.metadata, retry_delay=error.retry_delay)
        )


class Generation:
    """A call to the model, read as fast as it comes. What was read and not yet taken waits here, joined by block."""

    def __init__(self, *, model: Model, prompt: Callable[[], Awaitable[Prompt]], time_limit: float) -> None:
        self.usage = Usage()
        self.model_calls = 0
        self.outcome: Outcome | None = None
        self._model = model
        self._prompt = prompt
        self._time_limit = time_limit
        self._pending: list[_Delta] = []
        self._ready = asyncio.Event()
        self._shown = asyncio.Event()
        self._stopped: Outcome | None = None
        self._task = asyncio.create_task(self._run())
        # Not the task's own doing: one that is stopped before its first step never runs a line.
        self._task.add_done_callback(self._end)

    def stop(self, outcome: Outcome) -> None:
        """Ends the call to the model; the turn ends with `outcome` unless the reply is whole already."""
        self._stopped = outcome
        self._task.cancel()

    def take(self) -> list[tuple[int, str]]:
        """(block index, text) of what was read since the last time, in order."""
        taken = [(delta.block_index, "".join(delta.texts)) for delta in self._pending]
        self._pending.clear()
        if self.outcome is None:
            self._ready.clear()
        return taken

    async def ready(self) -> None:
        """Returns once there is something to take, or the outcome is known."""
        await self._ready.wait()

    def shown(self) -> None:
        """Tells that what was taken is committed and published."""
        self._shown.set()

    async def ended(self, *, seconds: float) -> None:
        """Returns once the outcome is known, at the latest after `seconds`."""
        await asyncio.wait({self._task}, timeout=seconds)

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
        prompt = await self._prompt()
        self.model_calls += 1
        async with aclosing(self._model.generate(prompt)) as events:
            count = 0
            async for event in events:
                match event:
                    case ReplyText(block_index, text):
                        self._join(block_index, text)
                        if count == 0:
                            await self._first_shown()
                        elif count % YIELD_EVERY == 0:
                            await asyncio.sleep(0)
                        count += 1
                    case ReplyUsage(usage):
                        self.usage = usage
                    case ReplyStop(stop_reason):
                        return Outcome(TurnStatus.COMPLETED, stop_reason)
        raise RuntimeError("the model ended a reply without ReplyStop")

    async def _first_shown(self) -> None:
        """Leaves the interpreter to the commit of the first delta, which reading on would hold up for milliseconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_COMMIT_SECONDS):
                await self._shown.wait()

    def _join(self, block_index: int, text: str) -> None:
        if self._pending and self._pending[-1].takes(block_index):
            self._pending[-1].append(text)
        else:
            self._pending.append(_Delta(block_index, text))
            self._ready.set()


class _Delta:
    """Text of one block, as long as an event may be."""

    __slots__ = ("block_index", "length", "texts")

    def __init__(self, block_index: int, text: str) -> None:
        self.block_index = block_index
        self.texts = [text]
        self.length = len(text)

    def takes(self, block_index: int) -> bool:
        return block_index == self.block_index and self.length <= DELTA_CHARACTERS

    def append(self, text: str) -> None:
        self.texts.append(text)
        self.length += len(text)
