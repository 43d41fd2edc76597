"""Ends turns before the model does: those of this process, those of others, and those that others have left."""

import asyncio
import contextlib
from collections.abc import Mapping
from weakref import WeakValueDictionary

from metamorphd.chat.event_log import EventLog
from metamorphd.chat.generation import Outcome, interrupted
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.chat.meter import Tariff
from metamorphd.errors import SessionNotFound, TurnNotFound
from metamorphd.llm.interface import ReplyUsage
from metamorphd.models.caller import Scope
from metamorphd.models.turn import Turn, TurnStatus
from metamorphd.store.database import Database
from metamorphd.store.turns.left import get_left_usage
from metamorphd.store.turns.read import get_turn, list_running_turns
from metamorphd.store.turns.terms import Terms

# Between two turns of a vault. Each end takes milliseconds of the event loop and of the writer, and a hundred at once
# would keep everybody waiting.
STEP_SECONDS = 0.01


class Ending:
    """Ends turns early, with the text that they have. `live` has those of this process, by (vault id, turn id)."""

    def __init__(
        self,
        *,
        database: Database,
        live: Mapping[tuple[str, str], LiveTurn],
        log: EventLog,
        tariff: Tariff,
        terms: Terms,
    ) -> None:
        self._database = database
        self._live = live
        self._log = log
        self._tariff = tariff
        self._terms = terms
        # By vault, while its turns are asked to end.
        self._asking = WeakValueDictionary[str, asyncio.Lock]()

    async def cancel_turn(self, scope: Scope, *, turn_id: str) -> None:
        """Cancels a turn, and returns once it has ended. Raises TurnNotFound."""
        live = self._live.get((scope.vault_id, turn_id))
        if live is None:
            turn = await self._database.read(get_turn, scope, turn_id=turn_id)
            if turn.status is TurnStatus.RUNNING:
                # Run by another process, which will find that it can append no more events.
                await self.end(scope, turn, Outcome(TurnStatus.CANCELLED))
            return
        live.generation.stop(Outcome(TurnStatus.CANCELLED))
        while (scope.vault_id, turn_id) in self._live:
            await live.changed()

    async def cancel_turns(self, scope: Scope) -> None:
        """Cancels the vault's running turns, one after the other, and returns once they have ended.

        One that does not end delays no other.
        """
        cancelling = []
        # Of two who ask at once, the second finds what the first has left, so that no more end at a time.
        async with self._asking.setdefault(scope.vault_id, asyncio.Lock()):
            for turn_id in await self._database.read(list_running_turns, scope):
                cancelling.append(asyncio.create_task(self._cancel_known(scope, turn_id)))
                await asyncio.sleep(STEP_SECONDS)
        await asyncio.gather(*cancelling, return_exceptions=True)

    async def _cancel_known(self, scope: Scope, turn_id: str) -> None:
        with contextlib.suppress(TurnNotFound):
            await self.cancel_turn(scope, turn_id=turn_id)

    async def end_left(self, scope: Scope, *, turn_id: str) -> None:
        """Ends a turn whose owner is gone, unless it has already ended."""
        with contextlib.suppress(TurnNotFound):
            turn = await self._database.read(get_turn, scope, turn_id=turn_id)
            await self.end(scope, turn, interrupted())

    async def end(self, scope: Scope, turn: Turn, outcome: Outcome) -> None:
        """Ends a turn that this process does not run, unless it has already ended."""
        with contextlib.suppress(TurnNotFound, SessionNotFound):
            left = await self._database.read(get_left_usage, scope, turn=turn, terms=self._terms)
            used = ReplyUsage(left.reported, left.most_output_tokens, left.unreported_reads)
            usage = self._tariff.priced(turn.model, used, most_input_tokens=left.most_input_tokens)
            # It calls the model first of all. How often is unknown.
            await self._log.finish(scope, turn, outcome, usage=usage, model_calls=1)
