"""A well-behaved caller: `python -m harness.abuse.neighbour TARGET TOKEN` until its standard input ends.

Prints a line once it has begun, and at the end the milliseconds of each call as a JSON array.
"""

import asyncio
import json
import sys
import time

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb

from tests.support.caller import Caller
from tests.support.garbage import frozen

PAUSE_SECONDS = 0.005
TIMEOUT_SECONDS = 10.0
# JSON has no infinity, but Python's reads it.
FAILED = float("inf")


async def main() -> None:
    stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    milliseconds = []
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        caller = Caller(channel, [("authorization", f"Bearer {sys.argv[2]}")])
        request = pb.GetSessionRequest(session_id=(await caller.create_session()).session_id)
        with frozen():
            sys.stdout.write("\n")
            sys.stdout.flush()
            while not stop.done():
                began = time.perf_counter()
                try:
                    await caller.chat.GetSession(request, metadata=caller.metadata, timeout=TIMEOUT_SECONDS)
                    milliseconds.append((time.perf_counter() - began) * 1000)
                except grpc.aio.AioRpcError:
                    milliseconds.append(FAILED)
                await asyncio.sleep(PAUSE_SECONDS)
    sys.stdout.write(json.dumps(milliseconds))


asyncio.run(main())
