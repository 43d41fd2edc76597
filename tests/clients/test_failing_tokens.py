"""Token functions of the Python client that fail, or that never return."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError, SyncMetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import StreamTurnRequest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.fakes.chat_service import FakeChatService, turn
from tests.support.serving import Serving
from tests.support.tokens import mint

Call = Callable[[MetamorphClient], Awaitable[object]]


async def stream(client: MetamorphClient) -> None:
    async for _ in client.chat.StreamTurn(StreamTurnRequest(turn_id="turn_1")):
        pass


async def download(client: MetamorphClient) -> None:
    async for _ in client.download("att_1"):
        pass


async def chunks() -> AsyncIterator[bytes]:
    yield b"text"


CALLS: dict[str, Call] = {
    "a call of a stub": lambda client: client.vault.WhoAmI(WhoAmIRequest()),
    "a stream of a stub": stream,
    "a start": lambda client: client.start("ses_1", "Hello"),
    "a send": lambda client: anext(client.send("ses_1", "Hello")),
    "a follow": lambda client: client.follow("turn_1"),
    "an upload": lambda client: client.upload(b"text", media_type="text/plain"),
    "an upload of a stream": lambda client: client.upload(chunks(), media_type="text/plain"),
    "a download": download,
}


class IssuerDown(ValueError):
    """What a token function raises: an error of a kind that the client raises too."""


def failing(*failures: int) -> tuple[Callable[[], Awaitable[str]], list[IssuerDown]]:
    """Returns a token function, some of whose calls fail, and what they have raised."""
    raised: list[IssuerDown] = []
    asked = iter(range(1, 1000))

    async def ask() -> str:
        if next(asked) in failures:
            raised.append(IssuerDown("the issuer is down"))
            raise raised[-1]
        return mint()

    return ask, raised


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_raises_what_its_token_function_raises(running: Serving, call: str) -> None:
    ask, raised = failing(*range(1, 100))
    retries: list[MetamorphError] = []
    async with MetamorphClient(running.target, token=ask, on_retry=retries.append) as client:
        with pytest.raises(IssuerDown) as error:
            await CALLS[call](client)
    assert [error.value] == raised
    assert retries == []


async def test_a_function_that_is_not_async_may_fail_too(running: Serving) -> None:
    def ask() -> str:
        raise IssuerDown

    async with MetamorphClient(running.target, token=ask) as client:
        for call in (client.start("ses_1", "Hello"), client.metadata()):
            with pytest.raises(IssuerDown):
                await call


async def test_what_resumes_waits_for_a_token_and_says_why() -> None:
    ask, raised = failing(2, 3)
    retries: list[MetamorphError] = []
    async with (
        FakeChatService([*turn(1, 2), grpc.StatusCode.UNAVAILABLE], turn(3, 4, 5)) as fake,
        MetamorphClient(fake.target, token=ask, on_retry=retries.append) as client,
    ):
        reply = await client.start("ses_1", "Hello")
        assert [event.sequence async for event in reply] == [1, 2, 3, 4, 5]
    assert [error.message for error in retries[1:]] == ["no token: the issuer is down"] * 2
    assert [error.__cause__ for error in retries[1:]] == raised


async def test_a_reply_that_was_left_waits_for_a_token_when_it_is_taken_up_again() -> None:
    ask, _ = failing(2)
    async with FakeChatService(turn(1, 2), turn(2, 3, 4, 5)) as fake, MetamorphClient(fake.target, token=ask) as client:
        reply = await client.start("ses_1", "Hello")
        async for _ in reply:
            break
        assert (await reply.final()) == reply.finished


async def test_a_reply_without_asyncio_ends_with_what_its_token_function_raises_in_the_end() -> None:
    ask, raised = failing(*range(2, 100))

    def work(target: str) -> None:
        with SyncMetamorphClient(target, token=ask, give_up_after=0.3) as client:
            reply = client.start("ses_1", "Hello")
            with pytest.raises(IssuerDown) as error:
                reply.final()
            assert error.value is raised[-1]

    async with FakeChatService([*turn(1, 2), grpc.StatusCode.UNAVAILABLE]) as fake:
        await asyncio.to_thread(work, fake.target)


@pytest.mark.parametrize("call", CALLS)
async def test_a_token_that_does_not_come_fails_every_call_in_time(running: Serving, call: str) -> None:
    async with MetamorphClient(running.target, token=asyncio.Event().wait, timeout=0.3) as client:  # type: ignore[arg-type]
        with pytest.raises(MetamorphError, match="the token did not come in time") as error:
            await asyncio.wait_for(CALLS[call](client), 5)
    assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
