"""Many calls that start at the same time."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import pytest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.caller import Caller
from tests.support.serving import Serving
from tests.support.tokens import mint

# Channels with the same options would share a connection.
CONNECTION_OF_ITS_OWN = [("grpc.use_local_subchannel_pool", 1)]


async def outcome(caller: Caller) -> str:
    try:
        await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)
    except grpc.aio.AioRpcError as refusal:
        return f"{refusal.code().name}: {refusal.details()}"
    return "OK"


@pytest.mark.parametrize(("calls", "connections"), [(1000, 1), (1000, 20), (5000, 4)])
async def test_every_call_of_a_burst_is_served(running: Serving, calls: int, connections: int) -> None:
    metadata = [("authorization", f"Bearer {mint()}")]
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(connections):
            channel = grpc.aio.insecure_channel(running.target, options=CONNECTION_OF_ITS_OWN)
            callers.append(Caller(await stack.enter_async_context(channel), metadata))
        # Connects first, so that the calls arrive together.
        await asyncio.gather(*(caller.channel.channel_ready() for caller in callers))
        outcomes = await asyncio.gather(*(outcome(callers[number % connections]) for number in range(calls)))
    assert Counter(outcomes) == {"OK": calls}
