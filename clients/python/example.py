import asyncio
import os

from metamorph_client import MetamorphClient

TARGET, TOKEN = os.environ.get("METAMORPH_TARGET", "localhost:50051"), os.environ.get("METAMORPH_TOKEN")


async def main() -> None:
    async with MetamorphClient(TARGET, token=TOKEN) as client:
        session = await client.create_session(title="Hello")
        async for event in client.send(session.session_id, "Hello from Python"):
            print(event.text_delta.text, end="", flush=True)
    print()


asyncio.run(main())
