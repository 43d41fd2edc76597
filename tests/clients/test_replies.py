"""Replies of the Python clients that are left, closed, or read by several at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
import pytest_asyncio
from metamorph_client import MetamorphClient, MetamorphError, Reply, SyncMetamorphClient
from metamorph_client.chat.v1.turn_pb2 import TextDelta, TurnEvent

from tests.support.copies import until
from tests.support.fakes.chat_service import OPEN, TURN_ID, FakeChatService, turn

WHOLE = [1, 2, 3, 4, 5]


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeChatService]:
    """Every turn has a text, and comes to no end."""
    async with FakeChatService([*turn(1), text(2), text(3), OPEN]) as fake:
        yield fake


def text(sequence: int) -> TurnEvent:
    return TurnEvent(turn_id=TURN_ID, sequence=sequence, text_delta=TextDelta(text=f"word{sequence} "))


async def events_of(reply: Reply) -> list[int]:
    return [event.sequence async for event in reply]


async def leave_events(reply: Reply) -> None:
    async for _ in reply:
        break


async def leave_text(reply: Reply) -> None:
    async for _ in reply.text():
        break


async def leave_by_an_exception(reply: Reply) -> None:
    with suppress(LookupError):
        async for _ in reply:
            raise LookupError


async def leave_in_time(reply: Reply) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            async for _ in reply:
                pass


async def stop_waiting(reply: Reply) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(reply.final(), 0.2)


LEAVING: list[Callable[[Reply], Awaitable[None]]] = [
    leave_events,
    leave_text,
    leave_by_an_exception,
    leave_in_time,
    stop_waiting,
    Reply.aclose,
]


@pytest.mark.parametrize("leave", LEAVING, ids=lambda leave: leave.__name__)
async def test_the_stream_of_a_reply_that_is_left_ends_though_the_reply_is_kept(
    fake: FakeChatService, leave: Callable[[Reply], Awaitable[None]]
) -> None:
    async with MetamorphClient(fake.target) as client:
        kept = [await client.start("ses_1", "Hello") for _ in range(3)]
        for reply in kept:
            await leave(reply)
        await until(lambda: fake.open_streams == 0)
        assert len(kept) == 3


async def test_the_stream_of_a_reply_that_is_left_without_asyncio_ends_though_the_reply_is_kept(
    fake: FakeChatService,
) -> None:
    def left(client: SyncMetamorphClient) -> list[Any]:
        kept = [client.start("ses_1", "Hello") for _ in range(3)]
        for _ in kept[0]:
            break
        for _ in kept[1].text():
            break
        kept[2].close()
        return kept

    client = await asyncio.to_thread(SyncMetamorphClient, fake.target)
    kept = await asyncio.to_thread(left, client)
    await until(lambda: fake.open_streams == 0)
    assert len(kept) == 3
    await asyncio.to_thread(client.close)


async def test_one_loop_after_the_other_has_the_rest_of_a_reply() -> None:
    seen: list[int] = []
    async with (
        FakeChatService(turn(*WHOLE), turn(*WHOLE)) as fake,
        MetamorphClient(fake.target) as client,
    ):
        reply = await client.start("ses_1", "Hello")
        for _ in range(3):
            async for event in reply:
                seen.append(event.sequence)
                break
        seen.append((await anext(reply)).sequence)
        assert seen + await events_of(reply) == WHOLE
        assert await events_of(reply) == []


async def test_a_reply_that_is_closed_beside_its_readers_ends_their_loops(fake: FakeChatService) -> None:
    async with MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        loops = [asyncio.ensure_future(events_of(reply)), asyncio.ensure_future(events_of(reply))]
        await asyncio.sleep(0.2)
        await asyncio.wait_for(reply.aclose(), 2)
        assert await asyncio.wait_for(asyncio.gather(*loops), 2) == [[1, 2, 3], []]
        await until(lambda: fake.open_streams == 0)
        assert len(fake.streams) == 1


async def test_a_reply_that_is_closed_in_its_loop_ends_it(fake: FakeChatService) -> None:
    seen = []
    async with MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        async for event in reply:
            seen.append(event.sequence)
            await reply.aclose()
    assert seen == [1]


async def test_a_reply_that_is_closed_beside_its_end_says_so(fake: FakeChatService) -> None:
    async with MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        end = asyncio.ensure_future(reply.final())
        await asyncio.sleep(0.1)
        await reply.aclose()
        with pytest.raises(MetamorphError, match="the reply was closed"):
            await asyncio.wait_for(end, 2)


async def test_a_reply_that_is_closed_while_it_waits_for_another_attempt_makes_none() -> None:
    down = [grpc.StatusCode.UNAVAILABLE]
    async with FakeChatService([*turn(1), *down], down) as fake, MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        loop = asyncio.ensure_future(events_of(reply))
        await asyncio.sleep(0.6)
        await reply.aclose()
        assert await asyncio.wait_for(loop, 2) == [1]


async def test_a_reply_is_closed_by_another_thread_than_its_reader(fake: FakeChatService) -> None:
    def work() -> list[int]:
        with SyncMetamorphClient(fake.target) as client, ThreadPoolExecutor() as threads:
            reply = client.start("ses_1", "Hello")
            reading = threads.submit(lambda: [event.sequence for event in reply])
            time.sleep(0.2)
            reply.close()
            return reading.result(timeout=5)

    assert await asyncio.to_thread(work) == [1, 2, 3]


async def test_the_end_of_a_reply_takes_nothing_from_a_loop_beside_it() -> None:
    async def slowly(reply: Reply) -> list[int]:
        seen = []
        async for event in reply:
            seen.append(event.sequence)
            await asyncio.sleep(0.02)
        return seen

    async with FakeChatService(turn(*WHOLE)) as fake, MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        seen, *ends = await asyncio.gather(slowly(reply), reply.final(), reply.final())
        assert seen == WHOLE
        assert ends == [reply.finished, reply.finished]
        assert len(fake.streams) == 1


async def test_the_end_of_a_reply_goes_on_where_a_loop_beside_it_was_left() -> None:
    async def left(reply: Reply) -> None:
        async for event in reply:
            if event.sequence == 3:
                break
            await asyncio.sleep(0.05)

    async with FakeChatService(turn(*WHOLE), turn(4, 5)) as fake, MetamorphClient(fake.target) as client:
        reply = await client.start("ses_1", "Hello")
        _, end = await asyncio.wait_for(asyncio.gather(left(reply), reply.final()), 5)
        assert end == reply.finished
        assert fake.streams == [("SendMessage", 0), ("StreamTurn", 3)]


async def test_the_end_of_a_reply_can_be_asked_for_in_its_own_loop() -> None:
    async def work(target: str) -> None:
        async with MetamorphClient(target) as client:
            reply = await client.start("ses_1", "Hello")
            async for _ in reply:
                assert (await reply.final()).HasField("message") is False

    def work_without_asyncio(target: str) -> None:
        with SyncMetamorphClient(target) as client:
            reply = client.start("ses_1", "Hello")
            for _ in reply:
                assert reply.final().HasField("message") is False

    async with FakeChatService(turn(*WHOLE)) as fake:
        await asyncio.wait_for(work(fake.target), 5)
        await asyncio.wait_for(asyncio.to_thread(work_without_asyncio, fake.target), 5)


async def test_the_end_of_a_reply_takes_nothing_from_the_loop_of_another_thread() -> None:
    def work(target: str) -> list[int]:
        with SyncMetamorphClient(target) as client, ThreadPoolExecutor() as threads:
            reply = client.start("ses_1", "Hello")
            loop = iter(reply)
            seen = [next(loop).sequence]
            end = threads.submit(reply.final)
            time.sleep(0.2)
            seen += [event.sequence for event in loop]
            assert end.result(timeout=5) == reply.final()
            return seen

    async with FakeChatService(turn(*WHOLE)) as fake:
        assert await asyncio.to_thread(work, fake.target) == WHOLE
