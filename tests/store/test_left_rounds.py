"""The usage of a turn with the memory tool that an earlier process left: its last calls were not reported."""

from metamorphd.models.turn import UsageUpdate
from metamorphd.models.usage import Usage
from metamorphd.store.database import Database
from metamorphd.store.turns.events import append_events
from metamorphd.store.turns.left import get_left_usage

from tests.support.rows import ACME, TERMS, append, new_session, new_turn


async def test_at_most_two_calls_more_than_were_reported_are_counted(database: Database) -> None:
    for memory_tool in (False, True):
        session = await new_session(database, memory_tool=memory_tool)
        turn = await new_turn(database, session.session_id)
        assert turn.options.memory_tool == memory_tool
        reported = Usage(input_tokens=40, output_tokens=7)
        await database.write(append_events, ACME, events=[UsageUpdate(turn.turn_id, 2, reported)])
        await append(database, turn, "Text.", first=3)
        left = await database.read(get_left_usage, ACME, turn=turn, terms=TERMS)
        assert left.reported == reported
        assert left.most_output_tokens == (7 + 2 * 1000 if memory_tool else 5)
        assert left.unreported_reads == memory_tool
        assert (left.most_input_tokens > 0) == memory_tool
