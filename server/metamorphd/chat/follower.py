"""Follows turns from any sequence to their end, over any number of connections."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from metamorphd.chat.live_turn import LiveTurn
from metamorphd.models.caller import Scope
from metamorphd.models.turn import TurnEvent, TurnFinished, TurnStatus
from metamorphd.store.database import Database
from metamorphd.store.turns.read import list_events

# Interval at which the table is read for a turn that another process runs.
POLL_SECONDS = 0.05
REPLAY_EVENTS = 256
# A page of a replay stays in memory until it is sent, for every caller that does not read.
REPLAY_CHARACTERS = 32_768


class Follower:
    """Reads turns for subscribers: those in `live`, by (vault id, turn id), from memory, others from the store."""

    def __init__(self, *, database: Database, live: Mapping[tuple[str, str], LiveTurn]) -> None:
        self._database = database
        self._live = live

    async def follow(self, scope: Scope, *, turn_id: str, after_sequence: int) -> AsyncGenerator[TurnEvent | None]:
        """Yields a turn's events after a sequence: first stored ones, then new ones as they are committed, to the end.

        Yields None first if the turn is there, and has none yet. Raises TurnNotFound, also if the turn is deleted in
        the meantime, and SequenceAhead.
        """
        sequence, found = after_sequence, False
        while True:
            live = self._live.get((scope.vault_id, turn_id))
            events = None if live is None else live.after(sequence)
            running = True
            if events is None:
                live = None
                turn, stored = await self._database.read(
                    list_events,
                    scope,
                    turn_id=turn_id,
                    after_sequence=sequence,
                    limit=REPLAY_EVENTS,
                    max_characters=REPLAY_CHARACTERS,
                )
                events, running = stored, turn.status is TurnStatus.RUNNING
            if not events:
                if not found:
                    yield None
                elif not running:
                    return
                elif live is None:
                    # Another process runs the turn, or an event is committed but not yet published here.
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    await live.changed()
            found = True
            for event in events:
                yield event
                sequence = event.sequence
                if isinstance(event, TurnFinished):
                    return
