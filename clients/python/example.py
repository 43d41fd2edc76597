"""Opens a session, sends a message, prints the reply as it streams: `python example.py`, against `make run`."""

import asyncio
import os

from metamorph.chat.v1.chat_service_pb2 import CreateSessionRequest
from metamorph.client import MetamorphClient


async def main() -> None:
    target, token = os.environ.get("METAMORPH_TARGET", "localhost:50051"), os.environ.get("METAMORPH_TOKEN")
    async with MetamorphClient(target, token=token) as client:
        created = await client.chat.CreateSession(CreateSessionRequest(), metadata=client.metadata)
        async for event in client.send(created.session.session_id, "Hello from Python"):
            print(event.text_delta.text, end="", flush=True)
    print()


asyncio.run(main())
