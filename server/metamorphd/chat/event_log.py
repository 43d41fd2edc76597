"""The commit stage of a turn: events go from the generation to the store, then to subscribers."""

from collections.abc import Mapping, Sequence

import structlog

from metamorphd.chat.generation import Outcome, interrupted
from metamorphd.chat.insistence import Insistent
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.clock import Clock
from metamorphd.errors import TurnNotFound
from metamorphd.models.caller import Scope
from metamorphd.models.content import ThinkingBlock
from metamorphd.models.turn import MiddleEvent, Turn, TurnEvent, TurnFinished
from metamorphd.models.usage import Usage
from metamorphd.store.database import Database
from metamorphd.store.turns.events import append_events
from metamorphd.store.turns.finish import finish_turn
from metamorphd.store.usage import count_deleted_usage

NOTHING_CLOSED: Mapping[int, ThinkingBlock] = {}

logger = structlog.get_logger(__name__)


class EventLog:
    """Commits the events of turns, then publishes them."""

    def __init__(self, *, database: Database, clock: Clock, metrics: TurnMetrics) -> None:
        self._insistent = Insistent(database)
        self._clock = clock
        self._metrics = metrics

    async def record(self, scope: Scope, live: LiveTurn) -> TurnFinished | None:
        """Commits a turn's events as they are generated, and publishes them, until the turn has ended.

        Committing fixes the sequence numbers and the bounds of deltas. Returns the last event, or None if the turn was
        ended or deleted elsewhere.
        """
        generation = live.generation
        try:
            while True:
                await generation.ready()
                events = generation.take(live.turn.turn_id, first_sequence=live.last_sequence + 1)
                if generation.outcome is not None:
                    break
                await self._insistent.write(append_events, scope, events=events)
                self._publish(live, events)
                generation.shown()
            finished = await self.finish(
                scope,
                live.turn,
                generation.outcome,
                events=events,
                closed=generation.closed,
                usage=generation.usage,
                model_calls=generation.model_calls,
            )
            self._publish(live, [*events, finished])
            return finished
        except TurnNotFound:
            logger.info("turn was ended or deleted elsewhere", vaultId=scope.vault_id, turn_id=live.turn.turn_id)
            # First, so that no usage arises after it was recorded.
            generation.stop(interrupted())
            now = self._clock.now()
            usage = generation.usage
            if await self._insistent.write(
                count_deleted_usage, scope, turn=live.turn, life=live.life, usage=usage, now=now
            ):
                self._metrics.used(live.turn.model, usage)
            return None
        finally:
            generation.stop(interrupted())

    def _publish(self, live: LiveTurn, events: Sequence[TurnEvent]) -> None:
        # The first event says that the turn has started.
        if live.last_sequence == 1 and not isinstance(events[0], TurnFinished):
            self._metrics.began(live.turn.model, create_time=live.turn.create_time, now=self._clock.now())
        live.publish(events)

    async def finish(
        self,
        scope: Scope,
        turn: Turn,
        outcome: Outcome,
        *,
        events: Sequence[MiddleEvent] = (),
        closed: Mapping[int, ThinkingBlock] = NOTHING_CLOSED,
        usage: Usage,
        model_calls: int,
    ) -> TurnFinished:
        """Ends a turn with its last events. Raises TurnNotFound if it has already ended."""
        now = self._clock.now()
        finished = await self._insistent.write(
            finish_turn,
            scope,
            turn=turn,
            events=events,
            closed=closed,
            status=outcome.status,
            stop_reason=outcome.stop_reason,
            stop_details=outcome.stop_details,
            usage=usage,
            model_calls=model_calls,
            error=outcome.error,
            reply_message_id=self._clock.new_id("msg"),
            now=now,
        )
        self._metrics.ended(finished, create_time=turn.create_time, now=now)
        self._metrics.used(turn.model, finished.usage)
        logger.info(
            "turn finished",
            vaultId=scope.vault_id,
            turn_id=turn.turn_id,
            status=outcome.status,
            reason=outcome.error and outcome.error.reason,
            model=turn.model,
            duration=(now - turn.create_time) // 1000,
            output_tokens=finished.usage.output_tokens,
            cost_usd_nanos=finished.usage.cost_usd_nanos,
            **scope.span.ids,
        )
        return finished
