"""Watches vaults: `python -m bench.watchers TARGET COUNT`, each of them once, and does a step for each line of input.

First every watcher is opened, then each vault is changed, which its watcher is sent. Prints a line after each step.
"""

import argparse
import asyncio
import sys
from typing import Any

import grpc
import uvloop
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.vault.v1.vault_service_pb2 import UpdateVaultRequest, Vault, WatchVaultRequest
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub

from bench.processes import token

# Below the server's limits on the streams of a connection and of all.
STREAMS_A_CHANNEL = 50
AT_ONCE = 50


class Watcher:
    """Watches a vault of its own."""

    def __init__(self, stub: VaultServiceStub, number: int) -> None:
        self._stub: Any = stub
        self._metadata = (("authorization", f"Bearer {token(f'watched-{number}', permissions=['read', 'admin'])}"),)

    async def open(self) -> None:
        self._responses = aiter(self._stub.WatchVault(WatchVaultRequest(), metadata=self._metadata))
        await anext(self._responses)

    async def change(self) -> None:
        request = UpdateVaultRequest(vault=Vault(display_name="changed"), update_mask=FieldMask(paths=["display_name"]))
        await self._stub.UpdateVault(request, metadata=self._metadata)
        # Its creation, and the change.
        while (await anext(self._responses)).revision < 2:
            pass


async def _watch(target: str, count: int) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(-(-count // STREAMS_A_CHANNEL))]
    watchers = [Watcher(VaultServiceStub(channels[number // STREAMS_A_CHANNEL]), number) for number in range(count)]
    for step in (Watcher.open, Watcher.change):
        await asyncio.to_thread(sys.stdin.readline)
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*map(step, watchers[first : first + AT_ONCE]))
        print(step.__name__, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    uvloop.run(_watch(arguments.target, arguments.count))
