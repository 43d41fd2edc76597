"""A program of a caller, which mypy checks strictly and a fresh environment runs."""

import asyncio
import os

from metamorph_client import TLS, MetamorphClient, MetamorphError, Reply, SyncMetamorphClient, __version__, text
from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import Turn, TurnFinished

TARGET, TOKEN = os.environ["METAMORPH_TARGET"], os.environ["METAMORPH_TOKEN"]
FILES = TLS(ca="ca.pem")


async def token() -> str:
    return TOKEN


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


async def main() -> None:
    async with MetamorphClient(TARGET, token=token, on_retry=print) as client:
        session: Session = await client.create_session(title="Typed", labels={"app": "test"})
        reply: Reply = await client.start(session.session_id, [text("Hello")], options=GenerationOptions())
        async for part in reply.text():
            print(part.upper(), end="")
        finished: TurnFinished = await client.run_tools(session.session_id, "2 + 3?", [add])
        print(finished.message.role)
        turns: list[Turn] = [turn async for turn in client.list_turns(session.session_id)]
        print(len(turns))
        try:
            await client.chat.GetSession(GetSessionRequest(session_id="ses_none"))
        except MetamorphError as error:
            print(error.code.name, error.reason, error.retry_delay or 0.0)
    with SyncMetamorphClient(TARGET, token=TOKEN) as waiting:
        same: Session = waiting.chat.GetSession(GetSessionRequest(session_id=session.session_id)).session
        print(same.title, "".join(waiting.start(session.session_id, "Bye").text()), __version__)


asyncio.run(main())
