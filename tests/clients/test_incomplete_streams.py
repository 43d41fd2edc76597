"""The Python client and streams that end OK, but without an event that they must have."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import turn_pb2

from tests.support.fakes.chat_service import TURN_ID, FakeChatService, Script, turn

WHOLE = [1, 2, 3, 4, 5]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def sequences(events: AsyncIterator[turn_pb2.TurnEvent]) -> list[int]:
    return [event.sequence async for event in events]


async def sent(*scripts: Script) -> tuple[list[int], list[tuple[str, int]]]:
    """Sends a message. Returns the sequences of the events, and the streams that it took."""
    async with FakeChatService(*scripts) as fake, MetamorphClient(fake.target) as client:
        return await sequences(client.send("ses_1", "Hello")), fake.streams


async def test_a_stream_that_ends_before_its_turn_is_resumed() -> None:
    assert await sent(turn(1, 2), turn(3), turn(4, 5)) == (
        WHOLE,
        [("SendMessage", 0), ("StreamTurn", 2), ("StreamTurn", 3)],
    )


async def test_a_send_without_events_is_repeated_with_its_request_id() -> None:
    async with FakeChatService([], turn(*WHOLE)) as fake, MetamorphClient(fake.target) as client:
        assert await sequences(client.send("ses_1", "Hello")) == WHOLE
    (first, second) = [request for _, request in fake.calls]
    assert uuid.UUID(first.request_id)
    assert first == second


async def test_a_regenerated_reply_that_ends_early_is_resumed() -> None:
    async with FakeChatService(turn(1), turn(2, 3, 4, 5)) as fake, MetamorphClient(fake.target) as client:
        assert await sequences(await client.regenerate("msg_1")) == WHOLE
    assert fake.streams == [("RegenerateReply", 0), ("StreamTurn", 1)]


@pytest.mark.parametrize("broken", [(1, 2, 4, 5), (1, 2, 5), (2, 3, 4, 5)], ids=str)
async def test_an_event_that_was_left_out_is_asked_for_again(broken: tuple[int, ...]) -> None:
    seen, streams = await sent(turn(*broken), turn(*WHOLE[2:]) if broken[0] == 1 else turn(*WHOLE))
    assert seen == WHOLE
    assert len(streams) == 2


async def test_an_event_that_is_repeated_or_late_is_yielded_once() -> None:
    assert await sent(turn(1, 2, 2, 1, 3, 4, 5)) == (WHOLE, [("SendMessage", 0)])


async def test_the_last_event_may_follow_any_other_once_they_have_expired() -> None:
    assert await sent(turn(5)) == ([5], [("SendMessage", 0)])
    assert await sent(turn(1, 2), turn(5)) == ([1, 2, 5], [("SendMessage", 0), ("StreamTurn", 2)])


async def test_an_error_after_the_last_event_is_nothing_to_resume() -> None:
    assert await sent([*turn(*WHOLE), UNAVAILABLE]) == (WHOLE, [("SendMessage", 0)])


async def followed(after: int, *scripts: Script, **fields: Any) -> tuple[list[int], list[str]]:
    async with FakeChatService(*scripts, **fields) as fake, MetamorphClient(fake.target) as client:
        return await sequences(await client.follow(TURN_ID, after)), [name for name, _ in fake.calls]


async def test_nothing_follows_the_last_event_of_a_turn() -> None:
    ended = {"status": turn_pb2.TURN_STATUS_COMPLETED}
    assert await followed(5, [], **ended) == ([], ["StreamTurn", "GetTurn"])


@pytest.mark.parametrize("status", [turn_pb2.TURN_STATUS_COMPLETED, turn_pb2.TURN_STATUS_RUNNING])
async def test_a_follower_whose_stream_is_empty_resumes_unless_the_turn_has_ended_there(
    status: turn_pb2.TurnStatus,
) -> None:
    seen, calls = await followed(3, [], turn(4, 5), status=status)
    assert (seen, calls) == ([4, 5], ["StreamTurn", "GetTurn", "StreamTurn"])


@pytest.mark.parametrize("script", [turn(1, 2), turn(1, 2, 4), []], ids=["early", "with a gap", "empty"])
async def test_a_server_that_never_gets_further_is_given_up(script: Script) -> None:
    retries: list[MetamorphError] = []
    async with (
        FakeChatService(script) as fake,
        MetamorphClient(fake.target, give_up_after=0.3, on_retry=retries.append) as client,
    ):
        with pytest.raises(MetamorphError) as given_up:
            await sequences(client.send("ses_1", "Hello"))
    assert given_up.value.code is grpc.StatusCode.INTERNAL
    assert "event" in given_up.value.message
    assert given_up.value.resumable
    # Each attempt waits longer: about 100, 200 and 400 ms at most.
    assert 0 < len(retries) < 100
    assert len(fake.streams) == len(retries) + 1
