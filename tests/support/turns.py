"""Calls that read and control turns."""

import asyncio
from typing import Any

from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.chat.v1.session_pb2 import Session

from tests.support.caller import Caller, Events, with_options

WORDS = tuple(f"word{number} " for number in range(200))


def stream(caller: Caller, turn_id: str, after: int = 0) -> Any:
    request = pb.StreamTurnRequest(turn_id=turn_id, after_sequence=after)
    return caller.chat.StreamTurn(request, metadata=caller.metadata)


async def followed(caller: Caller, turn_id: str, after: int = 0) -> list[turn_pb2.TurnEvent]:
    return await Events(stream(caller, turn_id, after)).rest()


def regenerate(caller: Caller, user_message_id: str, **fields: Any) -> Events:
    request = pb.RegenerateReplyRequest(user_message_id=user_message_id, **with_options(fields))
    return Events(caller.chat.RegenerateReply(request, metadata=caller.metadata))


async def cancel(caller: Caller, turn_id: str) -> turn_pb2.Turn:
    return (await caller.chat.CancelTurn(pb.CancelTurnRequest(turn_id=turn_id), metadata=caller.metadata)).turn


async def get_turn(caller: Caller, turn_id: str) -> turn_pb2.Turn:
    return (await caller.chat.GetTurn(pb.GetTurnRequest(turn_id=turn_id), metadata=caller.metadata)).turn


async def get_session(caller: Caller, session_id: str) -> Session:
    request = pb.GetSessionRequest(session_id=session_id)
    return (await caller.chat.GetSession(request, metadata=caller.metadata)).session


def deltas(events: list[turn_pb2.TurnEvent]) -> str:
    return "".join(event.text_delta.text for event in events)


async def titled(caller: Caller, session_id: str) -> str:
    """Waits for a session's generated title and returns it."""
    for _ in range(500):
        session = await get_session(caller, session_id)
        if session.title:
            return session.title
        await asyncio.sleep(0.02)
    raise AssertionError("no title came")
