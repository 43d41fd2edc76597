"""The turn engine: model -> events -> log -> subscribers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from metamorphd.chat.ending import Ending
from metamorphd.chat.event_log import EventLog
from metamorphd.chat.follower import Follower
from metamorphd.chat.generation import Generation, interrupted
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.chat.meter import Tariff
from metamorphd.chat.pace import Pace
from metamorphd.chat.prompts import Prompts
from metamorphd.chat.recall import Recall
from metamorphd.chat.rounds import Rounds
from metamorphd.chat.titles import Titles
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.chat.turn_span import begin_turn, end_turn
from metamorphd.clock import Clock
from metamorphd.errors import ServerDraining, StoreNotReady
from metamorphd.llm.interface import Model
from metamorphd.memories.tool import MemoryTool
from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.message import Message
from metamorphd.models.turn import Turn, TurnEvent
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.erasure_ledger import living
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.sessions import delete_session, get_session
from metamorphd.store.turns.create import create_regeneration, create_turn
from metamorphd.store.turns.leases import END_OF_TIME, list_orphaned_turns
from metamorphd.store.turns.read import get_turn, list_running_turns, started_event
from metamorphd.store.turns.terms import Terms
from metamorphd.store.uploads import stage_upload

# Stores a turn, and returns it with the life of its vault.
Create = Callable[[], Awaitable[tuple[Turn, str | None]]]

# Time after the grace period for turns to commit their ends.
LAST_COMMIT_SECONDS = 4.0
# How long the turns of a vault that was suspended are waited for. They end without that too.
CANCEL_SECONDS = 5.0

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Send:
    """A turn to start, with the user's message, which contains the turn's id, and the options of the reply.

    `uploads` are the attachments included in the message. `labels` are added to those of the session.
    """

    message: Message
    uploads: tuple[Upload, ...]
    parent_message_id: str | None
    options: GenerationOptions
    labels: Mapping[str, str]
    request: IdempotencyKey | None


@dataclass(frozen=True, slots=True)
class Regeneration:
    """A turn to start, which generates another reply to a user's message. Absent `options` stay as they were.

    `labels` are added to those of the session.
    """

    turn_id: str
    user_message_id: str
    options: GenerationOptions
    labels: Mapping[str, str]
    request: IdempotencyKey | None
    now: int


class TurnEngine:
    """Owns the running turns of this process. A turn continues whether or not it has subscribers.

    `time_limit` is in seconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        model: Model,
        clock: Clock,
        terms: Terms,
        titles: Titles,
        prompts: Prompts,
        recall: Recall,
        memory_tool: MemoryTool,
        metrics: TurnMetrics,
        time_limit: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._model = model
        self._terms = terms
        self._titles = titles
        self._prompts = prompts
        self._recall = recall
        self._memory_tool = memory_tool
        self._time_limit = time_limit
        self._tariff = Tariff(catalog=terms.catalog, charges=model.charges)
        self._log = EventLog(database=database, clock=clock, metrics=metrics)
        self._pace = Pace(running_turns=lambda: len(self._live))
        self._live: dict[tuple[str, str], LiveTurn] = {}
        self._follower = Follower(database=database, live=self._live)
        self._ending = Ending(database=database, live=self._live, log=self._log, tariff=self._tariff, terms=terms)
        self._tasks: set[asyncio.Task[None]] = set()
        self._titling: set[asyncio.Task[None]] = set()
        self._swept = False
        self._draining = False

    @property
    def running_turns(self) -> int:
        """Returns the number of turns that this process runs."""
        return len(self._live)

    async def send_message(self, scope: Scope, *, send: Send) -> Turn:
        """Stores the message and its turn, and starts the reply. A repeated request returns the existing turn.

        The turn continues if the call is cancelled. Raises the errors of `create_turn`, and ServerDraining.
        """
        await self._stage(scope, send)
        send = replace(send, message=await self._recall.with_memories(scope, send.message))
        return await self._start(
            scope,
            send.message.turn_id,
            lambda: self._database.write(
                living(create_turn),
                scope,
                message=send.message,
                uploads=send.uploads,
                parent=send.parent_message_id,
                options=send.options,
                labels=send.labels,
                terms=self._terms,
                request=send.request,
            ),
        )

    async def _stage(self, scope: Scope, send: Send) -> None:
        """Stores the attachments included in a message ahead of it, in steps. Raises SessionNotFound."""
        if not send.uploads:
            return
        await self._database.read(get_session, scope, session_id=send.message.session_id)
        for upload in send.uploads:
            while await self._database.write(
                stage_upload,
                scope,
                upload=upload,
                hash_key=self._clock.new_key(),
                storage_limit=self._terms.storage_limit,
                now=send.message.create_time,
            ):
                pass

    async def regenerate_reply(self, scope: Scope, *, regeneration: Regeneration) -> Turn:
        """Starts another reply, like `send_message`. Raises the errors of `create_regeneration`, and ServerDraining."""
        return await self._start(
            scope,
            regeneration.turn_id,
            lambda: self._database.write(
                living(create_regeneration),
                scope,
                turn_id=regeneration.turn_id,
                user_message_id=regeneration.user_message_id,
                options=regeneration.options,
                labels=regeneration.labels,
                terms=self._terms,
                request=regeneration.request,
                now=regeneration.now,
            ),
        )

    async def count_tokens(self, scope: Scope, *, send: Send) -> int:
        """Returns the input tokens that the message would use. Raises the errors of `plan_prompt` and of the model."""
        self._refuse_unswept()
        message = await self._recall.with_memories(scope, send.message, used=False)
        prompt = self._prompts.of_message(
            scope, message, send.uploads, parent=send.parent_message_id, options=send.options
        )
        async with prompt as read:
            return await self._model.count_tokens(read)

    async def cancel_turn(self, scope: Scope, *, turn_id: str) -> Turn:
        """Stops a turn, and returns it once it has ended. The partial reply is kept. Raises TurnNotFound.

        A turn that has already ended is returned unchanged.
        """
        await self._ending.cancel_turn(scope, turn_id=turn_id)
        return await self._database.read(get_turn, scope, turn_id=turn_id)

    async def cancel_turns(self, scope: Scope) -> int:
        """Stops all turns of the scope's vault, and returns how many have not ended within CANCEL_SECONDS.

        Those too that another process runs. They end one after the other, and their partial replies are kept. No titles
        are generated for the vault any more.
        """
        await asyncio.wait({self._spawn(self._ending.cancel_turns(scope))}, timeout=CANCEL_SECONDS)
        self._titles.cancel(scope.vault_id)
        return len(await self._database.read(list_running_turns, scope))

    def _refuse_unswept(self) -> None:
        """Raises StoreNotReady before the sweep, which would end a new turn as one that an earlier process left.

        The model may not be open before the sweep either.
        """
        if not self._swept:
            raise StoreNotReady(retry_delay=1.0)

    async def _start(self, scope: Scope, turn_id: str, create: Create) -> Turn:
        if self._draining:
            raise ServerDraining(retry_delay=5.0)
        self._refuse_unswept()
        started: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        # The engine's task also makes the first commit: a cancelled call could otherwise leave a turn that is not run.
        self._spawn(self._run(scope, turn_id, create, started))
        return await asyncio.shield(started)

    def follow(self, scope: Scope, *, turn_id: str, after_sequence: int) -> AsyncGenerator[TurnEvent | None]:
        """Yields a turn's events after a sequence. See `Follower.follow`."""
        return self._follower.follow(scope, turn_id=turn_id, after_sequence=after_sequence)

    async def delete_session(self, scope: Scope, *, session_id: str, etag: str) -> int:
        """Deletes a session and ends its running turns, whose subscribers get TurnNotFound.

        Returns the vault's revision.
        """
        _, revision = await self._database.write(
            revised(delete_session), scope, session_id=session_id, etag=etag, now=self._clock.now()
        )
        for (vault, _), live in list(self._live.items()):
            if (vault, live.turn.session_id) == (scope.vault_id, session_id):
                live.generation.stop(interrupted())
        return revision

    def serve_reads(self) -> None:
        """Takes the place of `sweep` where turns are run by another server alone."""
        self._swept = True

    async def sweep(self, *, patience_seconds: float) -> int:
        """Ends the turns whose owner is gone as INTERRUPTED, with the committed text.

        If no other server can have the store open, those are all running turns, otherwise those whose lease has
        expired. Returns their number, within `patience_seconds`, and continues in the background: a full disk must not
        keep the server from serving reads.
        """
        now = END_OF_TIME if self._database.exclusive else self._clock.now()
        left = await self._database.read_system(list_orphaned_turns, server_scope(), owner=self._terms.owner, now=now)
        self._swept = True
        for vault_id, turn_id in left:
            self._spawn(self._ending.end_left(server_scope(vault_id), turn_id=turn_id))
        await self._settle(patience_seconds)
        return len(left)

    def refuse_turns(self) -> None:
        """Refuses new turns from now on."""
        self._draining = True

    async def drain(self, *, grace_seconds: float) -> None:
        """Refuses new turns, waits `grace_seconds` for running ones to end, and ends the rest as INTERRUPTED."""
        self.refuse_turns()
        await self._settle(grace_seconds)
        for live in self._live.values():
            live.generation.stop(interrupted())
        loop = asyncio.get_running_loop()
        last = loop.time() + LAST_COMMIT_SECONDS
        await self._settle(LAST_COMMIT_SECONDS)
        # Titles are not worth waiting for. Their usage so far is still recorded.
        for task in (*self._tasks, *self._titling):
            task.cancel()
        await self._settle(last - loop.time(), titles=True)

    async def _settle(self, seconds: float, *, titles: bool = False) -> None:
        if tasks := self._tasks | (self._titling if titles else set()):
            await asyncio.wait(tasks, timeout=seconds)

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], *, among: set[asyncio.Task[None]] | None = None
    ) -> asyncio.Task[None]:
        tasks = self._tasks if among is None else among
        task = asyncio.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def _run(
        self,
        scope: Scope,
        turn_id: str,
        create: Create,
        started: asyncio.Future[Turn],
    ) -> None:
        try:
            turn, life = await create()
        except Exception as exc:
            if not started.done():
                started.set_exception(exc)
                # Read the exception: asyncio would log it if the call is gone.
                started.exception()
            return
        # It references the uploads, possibly megabytes, which the turn no longer needs.
        del create
        if turn.turn_id == turn_id:
            span = begin_turn(scope.span, turn)
            turn_scope = scope.within(span)
            generation = Generation(
                model=self._model,
                prompt=lambda said: self._prompts.of_turn(turn_scope, turn, said=said),
                rounds=Rounds(
                    database=self._database, clock=self._clock, tool=self._memory_tool, scope=turn_scope, turn=turn
                ),
                tariff=self._tariff,
                time_limit=self._time_limit,
                pace=self._pace,
            )
            live = self._live[scope.vault_id, turn_id] = LiveTurn(turn=turn, life=life, generation=generation)
            live.publish([started_event(turn)])
        if not started.done():
            started.set_result(turn)
        if turn.turn_id == turn_id:
            finished = None
            try:
                finished = await self._log.record(turn_scope, live)
            finally:
                end_turn(span, finished)
                del self._live[scope.vault_id, turn_id]
                live.wake()
            self._spawn(self._titles.name_session(scope, live, finished), among=self._titling)
