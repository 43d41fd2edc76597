"""Holds streams of a vault: `python -m bench.held TARGET VAULT --turns N --watchers N`, once for each line of input.

Prints a line when all of them are open: as many turns as asked for, each with its first delta, and as many watchers.
Prints how many ended with each reason, as JSON, when all have ended.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock
from metamorph_client.vault.v1.vault_service_pb2 import WatchVaultRequest
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub

from bench.processes import token
from tests.support.refusal import Refusal

# Below the server's limits on the streams of a connection.
STREAMS_A_CHANNEL = 50
AT_ONCE = 50


class Streams:
    """Streams of a vault, over as many connections as they need."""

    def __init__(self, target: str, vault: str, count: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            grpc.aio.insecure_channel(target, options=options) for _ in range(-(-count // STREAMS_A_CHANNEL))
        ]
        self._metadata = (("authorization", f"Bearer {token(vault)}"),)

    async def turn(self, number: int) -> Any:
        """Returns the events of a new turn, after its first delta."""
        stub: Any = ChatServiceStub(self._channels[number // STREAMS_A_CHANNEL])
        session = await stub.CreateSession(pb.CreateSessionRequest(), metadata=self._metadata)
        content = [ContentBlock(text=TextBlock(text="Say many words"))]
        request = pb.SendMessageRequest(session_id=session.session.session_id, content=content)
        events = aiter(stub.SendMessage(request, metadata=self._metadata))
        while not (await anext(events)).event.HasField("text_delta"):
            pass
        return events

    async def watcher(self, number: int) -> Any:
        """Returns the changes of the vault, after a first response."""
        stub: Any = VaultServiceStub(self._channels[number // STREAMS_A_CHANNEL])
        changes = aiter(stub.WatchVault(WatchVaultRequest(), metadata=self._metadata))
        await anext(changes)
        return changes


async def _opened(open_one: Callable[[int], Awaitable[Any]], numbers: range) -> list[Any]:
    opened = []
    for first in range(0, len(numbers), AT_ONCE):
        opened += await asyncio.gather(*map(open_one, numbers[first : first + AT_ONCE]))
    return opened


async def _ended(stream: Any) -> str:
    try:
        async for _ in stream:
            pass
    except grpc.aio.AioRpcError as error:
        return Refusal(error).reason
    return "OK"


async def _hold(target: str, vault: str, turns: int, watchers: int) -> None:
    streams = Streams(target, vault, turns + watchers)
    while await asyncio.to_thread(sys.stdin.readline):
        opened = await _opened(streams.turn, range(turns))
        opened += await _opened(streams.watcher, range(turns, turns + watchers))
        print(flush=True)
        print(json.dumps(Counter(await asyncio.gather(*map(_ended, opened)))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("vault")
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--watchers", type=int, default=0)
    arguments = parser.parse_args()
    uvloop.run(_hold(arguments.target, arguments.vault, arguments.turns, arguments.watchers))
