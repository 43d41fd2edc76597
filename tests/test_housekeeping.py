"""What has had its time is deleted, in small steps."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.models import TurnStatus
from metamorphd.store.events import prune_events
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.turns import list_events

from tests.store.rows import append, finish, new_session, new_turn

DAY = 86_400_000_000


class Later(Clock):
    """A clock that can be put forward."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="NORMAL")
    await opened.open()
    yield opened
    await opened.close()


async def sequences(database: SqliteDatabase, turn_id: str, after: int = 0) -> list[int]:
    _, events = await database.read(list_events, "acme", turn_id=turn_id, after_sequence=after, limit=10_000)
    return [event.sequence for event in events]


async def test_events_go_a_day_after_their_turns_end_and_the_end_is_told_forever(database: SqliteDatabase) -> None:
    clock = Later()
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=24)
    session = await new_session(database)
    old = await new_turn(database, session.session_id)
    await append(database, old, *"abc")
    finished = await finish(database, old)
    running = await new_turn(database, session.session_id)
    await append(database, running, *"xyz")
    clock.ahead = DAY - 60_000_000
    await keeping.sweep()
    assert await sequences(database, old.turn_id) == [1, 2, 3, 4, 5]
    clock.ahead = DAY + 60_000_000
    await keeping.sweep()
    assert await sequences(database, old.turn_id) == [5]
    assert await sequences(database, old.turn_id, after=2) == [5]
    assert await sequences(database, old.turn_id, after=5) == []
    turn, (event,) = await database.read(list_events, "acme", turn_id=old.turn_id, after_sequence=0, limit=10)
    assert (turn.status, event) == (TurnStatus.COMPLETED, finished)
    assert await sequences(database, running.turn_id) == [1, 2, 3, 4]


async def test_a_turn_is_pruned_in_steps_and_told_as_pruned_from_the_first(database: SqliteDatabase) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await append(database, turn, *("x" for _ in range(25)))
    await finish(database, turn)
    before = Clock().now() + DAY
    steps = 0
    while await database.write_system(prune_events, before=before, limit=10):
        steps += 1
        assert await sequences(database, turn.turn_id) == [27]
    # Marking it, then ten, ten, and the five that are left.
    assert steps == 4
