"""Followers that are in the middle of a replay, or have nothing to replay yet."""

from typing import Any

from metamorphd.chat.follower import REPLAY_EVENTS, Follower
from metamorphd.models.turn import TurnFinished
from metamorphd.store.database import Database
from metamorphd.store.messages import delete_message

from tests.support.rows import ACME, CLOCK, append, finish, new_session, new_turn


async def test_the_replay_of_a_reply_that_is_deleted_skips_to_its_end(database: Database) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    await append(database, turn, *(str(number) for number in range(3 * REPLAY_EVENTS)))
    finished = await finish(database, turn)
    events = Follower(database=database, live={}).follow(ACME, turn_id=turn.turn_id, after_sequence=0)
    seen: list[Any] = [await anext(events)]
    assert finished.message is not None
    await database.write(delete_message, ACME, message_id=finished.message.message_id, now=CLOCK.now())
    seen += [event async for event in events]
    # What was read before is at most a page.
    assert len(seen) <= REPLAY_EVENTS + 2
    assert [event.sequence for event in seen[:-1]] == list(range(1, len(seen)))
    last = seen[-1]
    assert isinstance(last, TurnFinished)
    assert (last.sequence, last.message and last.message.content) == (finished.sequence, ())


async def test_a_turn_without_new_events_is_there_even_so(database: Database) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    await append(database, turn, "One ")
    follower = Follower(database=database, live={})
    running = follower.follow(ACME, turn_id=turn.turn_id, after_sequence=2)
    assert await anext(running) is None
    finished = await finish(database, turn)
    assert [event async for event in running] == [finished]
    ended = follower.follow(ACME, turn_id=turn.turn_id, after_sequence=finished.sequence)
    assert [event async for event in ended] == [None]
    begun = follower.follow(ACME, turn_id=turn.turn_id, after_sequence=0)
    assert [event.sequence async for event in begun if event] == [1, 2, 3]
