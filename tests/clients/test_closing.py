"""Calls of the Python client that go on while it is closed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.chat_service_pb2 import UploadAttachmentRequest
from metamorph_client.vault.v1.vault_service_pb2 import WatchVaultRequest, WhoAmIRequest

from tests.support.fakes.chat_service import FakeChatService, turn
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving
from tests.support.tokens import mint

Waiting = Callable[[MetamorphClient], Awaitable[object]]


async def watch(client: MetamorphClient) -> None:
    async for _ in client.vault.WatchVault(WatchVaultRequest()):
        pass


async def send(client: MetamorphClient) -> None:
    async for _ in client.send("ses_1", "Hello"):
        pass


async def upload(client: MetamorphClient) -> None:
    async def never() -> AsyncIterator[UploadAttachmentRequest]:
        await asyncio.get_running_loop().create_future()
        yield UploadAttachmentRequest()

    await client.chat.UploadAttachment(never())


async def write(client: MetamorphClient) -> None:
    call = client.chat.UploadAttachment()
    while True:
        await call.write(UploadAttachmentRequest(chunk=bytes(1_000_000)))


async def closed_while(waiting: Waiting, client: MetamorphClient) -> MetamorphError:
    """Returns what something raises if its client is closed while it waits."""
    running = asyncio.ensure_future(waiting(client))
    done, _ = await asyncio.wait({running}, timeout=0.4)
    assert not done
    await client.close()
    await client.close()
    with pytest.raises(MetamorphError, match="the client is closed") as ended:
        async with asyncio.timeout(5):
            await running
    return ended.value


WAITING: dict[str, Waiting] = {
    "a call": lambda client: client.vault.WhoAmI(WhoAmIRequest()),
    "a stream": watch,
    "a start": lambda client: client.start("ses_1", "Hello"),
    "a send": send,
    "a follow": lambda client: client.follow("turn_1"),
    "an upload": upload,
    "a write": write,
}


@pytest.mark.parametrize("what", WAITING)
async def test_what_waits_for_an_answer_ends(running: Serving, what: str) -> None:
    async with CuttingProxy(running.server.grpc_port) as proxy:
        proxy.muted = True
        error = await closed_while(WAITING[what], MetamorphClient(proxy.target, token=mint()))
    assert (error.code, error.reason, error.resumable) == (grpc.StatusCode.CANCELLED, "", False)


@pytest.mark.parametrize("what", ["a call", "a stream", "a start", "a follow"])
async def test_what_waits_for_its_token_ends(running: Serving, what: str) -> None:
    async def never() -> str:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    await closed_while(WAITING[what], MetamorphClient(running.target, token=never))


async def test_what_waits_before_another_attempt_ends_and_makes_none() -> None:
    async with FakeChatService([*turn(1), grpc.StatusCode.UNAVAILABLE], [grpc.StatusCode.UNAVAILABLE]) as fake:
        client = MetamorphClient(fake.target)
        reply = await client.start("ses_1", "Hello")
        assert (await anext(reply)).sequence == 1

        reading = asyncio.ensure_future(reply.final())
        await asyncio.sleep(1)
        await client.close()
        attempts = len(fake.streams)
        with pytest.raises(MetamorphError, match="the client is closed"):
            await asyncio.wait_for(reading, 2)
        await asyncio.sleep(0.5)
        assert len(fake.streams) == attempts


async def test_stubs_that_are_made_of_a_closed_client_say_so_too(running: Serving) -> None:
    client = MetamorphClient(running.target, token=mint())
    await client.close()
    for _ in range(200):
        with pytest.raises(MetamorphError, match="the client is closed"):
            await client.with_token(mint()).vault.WhoAmI(WhoAmIRequest())


async def test_a_task_that_is_cancelled_is_not_given_an_error_instead(running: Serving) -> None:
    async with CuttingProxy(running.server.grpc_port) as proxy:
        proxy.muted = True
        client = MetamorphClient(proxy.target, token=mint())
        waiting = asyncio.ensure_future(client.follow("turn_1"))
        await asyncio.sleep(0.2)
        waiting.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
