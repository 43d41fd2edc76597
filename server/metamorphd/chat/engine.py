"""The turn engine: model -> events -> log -> those who follow."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from metamorphd.chat.generation import Generation, Outcome
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.clock import Clock
from metamorphd.errors import DomainError, ServerDraining, TurnInterrupted, TurnNotFound
from metamorphd.llm.model import Model, Prompt, PromptMessage
from metamorphd.models import Content, Message, TextDelta, Turn, TurnEvent, TurnFinished, TurnStatus, Usage
from metamorphd.store.database import Database, Operation, P
from metamorphd.store.requests import RequestKey
from metamorphd.store.sessions import delete_session
from metamorphd.store.turns import (
    append_events,
    create_turn,
    finish_turn,
    get_prompt,
    get_turn,
    list_events,
    list_running_turns,
    started_event,
)

T = TypeVar("T")

# Up to so many live turns an event is committed as soon as it is there; beyond, each further one adds to the wait.
UNPACED_TURNS = 4
PACE_SECONDS = 0.004
LONGEST_PACE = 0.2
# How often the table is read for a turn that another process runs.
POLL_SECONDS = 0.05
REPLAY_EVENTS = 256
# What is left of a turn after its grace: long enough to commit its end.
LAST_COMMIT_SECONDS = 5.0
LONGEST_BACKOFF = 5.0
NO_USAGE = Usage()

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Send:
    """What a turn is started with: the user's message, which carries the turn's id, and how to generate the reply."""

    message: Message
    parent_message_id: str | None
    model: str
    max_output_tokens: int
    stop_sequences: tuple[str, ...]
    request: RequestKey | None


class TurnEngine:
    """Owns every running turn of this process: a turn goes on whether anybody follows it or not.

    `time_limit` in seconds; `max_output_tokens` is the most that a reply may have, `max_running_turns` the most turns
    of one vault that may run at a time.
    """

    def __init__(
        self,
        *,
        database: Database,
        model: Model,
        clock: Clock,
        default_model: str,
        max_output_tokens: int,
        time_limit: float,
        max_running_turns: int,
    ) -> None:
        self._database = database
        self._model = model
        self._clock = clock
        self._default_model = default_model
        self._max_output_tokens = max_output_tokens
        self._time_limit = time_limit
        self._max_running_turns = max_running_turns
        self._live: dict[tuple[str, str], LiveTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def running_turns(self) -> int:
        """How many turns this process runs."""
        return len(self._live)

    async def start_turn(self, vault_id: str, *, send: Send) -> Turn:
        """Stores the message and its turn, and starts to generate; a repeated request answers its turn.

        The turn goes on when the caller is cancelled. Raises what `create_turn` raises, and ServerDraining.
        """
        if self._draining:
            raise ServerDraining(retry_delay=5.0)
        started: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        # The engine's task makes the first commit too: a cancelled call could otherwise leave a turn nobody runs.
        self._spawn(self._run(vault_id, send, started))
        return await asyncio.shield(started)

    async def follow(self, vault_id: str, *, turn_id: str, after_sequence: int) -> AsyncGenerator[TurnEvent]:
        """A turn's events after a sequence, first the stored ones, then each once it is committed, to the turn's end.

        Raises TurnNotFound, also when the turn is deleted meanwhile, and SequenceAhead.
        """
        sequence = after_sequence
        while True:
            live = self._live.get((vault_id, turn_id))
            events = None if live is None else live.after(sequence)
            if events is None:
                turn, stored = await self._database.read(
                    list_events, vault_id, turn_id=turn_id, after_sequence=sequence, limit=REPLAY_EVENTS
                )
                events = stored
                if not events and turn.status is not TurnStatus.RUNNING:
                    return
            for event in events:
                yield event
                sequence = event.sequence
                if isinstance(event, TurnFinished):
                    return
            if not events:
                await (asyncio.sleep(POLL_SECONDS) if live is None else live.changed())

    async def delete_session(self, vault_id: str, *, session_id: str, etag: str) -> None:
        """Deletes a session; its running turns end, and whoever follows one gets TurnNotFound."""
        await self._database.write(delete_session, vault_id, session_id=session_id, etag=etag)
        for (vault, _), live in list(self._live.items()):
            if (vault, live.turn.session_id) == (vault_id, session_id):
                live.generation.stop(_interrupted())

    async def sweep(self, *, patience_seconds: float) -> int:
        """Ends what an earlier process left running: INTERRUPTED, with the text that was committed. How many it was.

        Returns after `patience_seconds` at the latest, and goes on: a full disk must not keep the server from reading.
        """
        left = await self._database.read_system(list_running_turns)
        for vault_id, turn_id in left:
            self._spawn(self._end_left(vault_id, turn_id))
        await self._settle(patience_seconds)
        return len(left)

    async def _end_left(self, vault_id: str, turn_id: str) -> None:
        turn = await self._database.read(get_turn, vault_id, turn_id=turn_id)
        await self._finish(vault_id, turn, _interrupted())

    async def drain(self, *, grace_seconds: float) -> None:
        """Starts no more turns, lets those that run end within the grace, and ends the others INTERRUPTED."""
        self._draining = True
        await self._settle(grace_seconds)
        for live in self._live.values():
            live.generation.stop(_interrupted())
        await self._settle(LAST_COMMIT_SECONDS)
        for task in self._tasks:
            task.cancel()
        await self._settle(LAST_COMMIT_SECONDS)

    async def _settle(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, vault_id: str, send: Send, started: asyncio.Future[Turn]) -> None:
        turn_id = send.message.turn_id
        try:
            turn = await self._database.write(
                create_turn,
                vault_id,
                message=send.message,
                parent=send.parent_message_id,
                model=send.model,
                default_model=self._default_model,
                max_running_turns=self._max_running_turns,
                request=send.request,
            )
        except Exception as exc:
            if not started.done():
                started.set_exception(exc)
                # Read, because the call may be gone: then nobody else reads it.
                started.exception()
            return
        if turn.turn_id == turn_id:
            generation = Generation(
                model=self._model, prompt=lambda: self._prompt(vault_id, turn, send), time_limit=self._time_limit
            )
            live = self._live[vault_id, turn_id] = LiveTurn(turn=turn, generation=generation)
            live.publish([started_event(turn)])
        if not started.done():
            started.set_result(turn)
        if turn.turn_id == turn_id:
            try:
                await self._commit(vault_id, live)
            finally:
                del self._live[vault_id, turn_id]
                live.wake()

    async def _prompt(self, vault_id: str, turn: Turn, send: Send) -> Prompt:
        system_prompt, branch = await self._database.read(get_prompt, vault_id, turn=turn)
        messages = [PromptMessage(message.role, _spoken(message.content)) for message in branch]
        cap = self._max_output_tokens
        return Prompt(
            model=turn.model,
            system_prompt=system_prompt,
            messages=tuple(message for message in messages if message.content),
            max_output_tokens=min(send.max_output_tokens or cap, cap),
            stop_sequences=send.stop_sequences,
        )

    async def _commit(self, vault_id: str, live: LiveTurn) -> None:
        """Commits what the generation brings, then publishes it. That fixes sequences and boundaries."""
        generation = live.generation
        try:
            while True:
                await generation.ready()
                deltas = [
                    TextDelta(live.turn.turn_id, sequence, block_index, text)
                    for sequence, (block_index, text) in enumerate(generation.take(), live.last_sequence + 1)
                ]
                if generation.outcome is not None:
                    break
                await self._durably(append_events, vault_id, deltas=deltas)
                live.publish(deltas)
                generation.shown()
                if (pace := self._pace()) > 0:
                    await generation.ended(seconds=pace)
            finished = await self._finish(
                vault_id,
                live.turn,
                generation.outcome,
                deltas=deltas,
                usage=generation.usage,
                model_calls=generation.model_calls,
            )
            live.publish([*deltas, finished])
        except TurnNotFound:
            logger.info("turn deleted while it ran", vaultId=vault_id, turn_id=live.turn.turn_id)
        finally:
            generation.stop(_interrupted())

    async def _finish(
        self,
        vault_id: str,
        turn: Turn,
        outcome: Outcome,
        *,
        deltas: Sequence[TextDelta] = (),
        usage: Usage = NO_USAGE,
        model_calls: int = 0,
    ) -> TurnFinished:
        now = self._clock.now()
        finished = await self._durably(
            finish_turn,
            vault_id,
            turn=turn,
            deltas=deltas,
            status=outcome.status,
            stop_reason=outcome.stop_reason,
            usage=usage,
            model_calls=model_calls,
            error=outcome.error,
            reply_message_id=self._clock.new_id("msg"),
            now=now,
        )
        logger.info(
            "turn finished",
            vaultId=vault_id,
            turn_id=turn.turn_id,
            status=outcome.status,
            reason=outcome.error and outcome.error.reason,
            model=turn.model,
            duration=(now - turn.create_time) // 1000,
            output_tokens=usage.output_tokens,
        )
        return finished

    async def _durably(self, operation: Operation[P, T], vault_id: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Writes what must not be lost: repeats until the store takes it, or the turn is gone."""
        delay = 0.1
        while True:
            try:
                return await self._database.write(operation, vault_id, *args, **kwargs)
            except TurnNotFound:
                raise
            except Exception as exc:
                # Of an error that the store has no name for, all that can be told.
                unknown = None if isinstance(exc, DomainError) else exc
                logger.warning("turn waits for the store", vaultId=vault_id, error=type(exc).__name__, exc_info=unknown)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_BACKOFF)

    def _pace(self) -> float:
        """Seconds until the next delta may be committed: all turns wait for the same moments, to share a commit."""
        pace = min(max(0, len(self._live) - UNPACED_TURNS) * PACE_SECONDS, LONGEST_PACE)
        return pace - asyncio.get_running_loop().time() % pace if pace else 0.0


def _interrupted() -> Outcome:
    return Outcome.of(TurnStatus.INTERRUPTED, TurnInterrupted())


def _spoken(content: Content) -> Content:
    """Without blocks of white space only, which the provider refuses."""
    return tuple(block for block in content if block.text.strip())
