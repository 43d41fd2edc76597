"""ChatService: convert, call, convert."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorph.chat.v1 import chat_service_pb2_grpc

from metamorphd.auth.callers import current_caller
from metamorphd.chat.engine import Send, TurnEngine
from metamorphd.clock import Clock
from metamorphd.errors import ContentTooLarge
from metamorphd.models import Content, Message, Role
from metamorphd.services.encoding import (
    content_from_proto,
    event_to_proto,
    message_to_proto,
    session_to_proto,
    turn_to_proto,
)
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, decode_page_token, encode_page_token
from metamorphd.services.requests import changes, request_key
from metamorphd.store.database import Database
from metamorphd.store.messages import get_message, list_messages
from metamorphd.store.sessions import create_session, get_session, list_sessions, update_session
from metamorphd.store.turns import get_turn

SETTABLE = {"title", "model", "system_prompt", "metadata", "archived"}

Context = grpc.aio.ServicerContext[Any, Any]


class ChatService(chat_service_pb2_grpc.ChatServiceServicer):
    """Sessions, messages and turns of the caller's vault."""

    def __init__(self, *, database: Database, engine: TurnEngine, clock: Clock, max_content_bytes: int) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._max_content_bytes = max_content_bytes

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        caller = current_caller.get()
        session = await self._database.write(
            create_session,
            caller.vault_id,
            session_id=self._clock.new_id("ses"),
            title=request.session.title,
            model=request.session.model,
            system_prompt=request.session.system_prompt,
            metadata=request.session.metadata,
            archived=request.session.archived,
            creator=caller.user_id,
            request=request_key("CreateSession", request),
            request_key=self._clock.new_key(),
            now=self._clock.now(),
        )
        return pb.CreateSessionResponse(session=session_to_proto(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        vault = current_caller.get().vault_id
        session = await self._database.read(get_session, vault, session_id=request.session_id)
        return pb.GetSessionResponse(session=session_to_proto(session))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        vault = current_caller.get().vault_id
        page = await self._database.read(
            list_sessions,
            vault,
            after=decode_page_token(request, vault, request.page_token, (int, str)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
            archived=request.archived if request.HasField("archived") else None,
            creator=request.creator if request.HasField("creator") else None,
            metadata=request.metadata,
        )
        return pb.ListSessionsResponse(
            sessions=map(session_to_proto, page.items),
            next_page_token=encode_page_token(request, vault, page.next_after),
        )

    async def UpdateSession(self, request: pb.UpdateSessionRequest, context: Context) -> pb.UpdateSessionResponse:
        session = await self._database.write(
            update_session,
            current_caller.get().vault_id,
            session_id=request.session.session_id,
            changes=changes(request.session, request.update_mask, SETTABLE),
            etag=request.session.etag,
            now=self._clock.now(),
        )
        return pb.UpdateSessionResponse(session=session_to_proto(session))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        vault = current_caller.get().vault_id
        await self._engine.delete_session(vault, session_id=request.session_id, etag=request.etag)
        return pb.DeleteSessionResponse()

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        vault = current_caller.get().vault_id
        page = await self._database.read(
            list_messages,
            vault,
            session_id=request.session_id,
            leaf_message_id=request.leaf_message_id if request.HasField("leaf_message_id") else None,
            all_branches=request.all_branches,
            newest_first=request.order_by == pb.MESSAGE_ORDER_NEWEST_FIRST,
            after=decode_page_token(request, vault, request.page_token, (int, str)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
        )
        return pb.ListMessagesResponse(
            messages=map(message_to_proto, page.items),
            next_page_token=encode_page_token(request, vault, page.next_after),
        )

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        vault = current_caller.get().vault_id
        message = await self._database.read(get_message, vault, message_id=request.message_id)
        return pb.GetMessageResponse(message=message_to_proto(message))

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: Context
    ) -> AsyncIterator[pb.SendMessageResponse]:
        caller = current_caller.get()
        send = self._send(request, caller.user_id)
        turn = await self._engine.start_turn(caller.vault_id, send=send)
        async for event in self._engine.follow(caller.vault_id, turn_id=turn.turn_id, after_sequence=0):
            yield pb.SendMessageResponse(event=event_to_proto(event))

    async def StreamTurn(self, request: pb.StreamTurnRequest, context: Context) -> AsyncIterator[pb.StreamTurnResponse]:
        vault = current_caller.get().vault_id
        events = self._engine.follow(vault, turn_id=request.turn_id, after_sequence=request.after_sequence)
        async for event in events:
            yield pb.StreamTurnResponse(event=event_to_proto(event))

    async def GetTurn(self, request: pb.GetTurnRequest, context: Context) -> pb.GetTurnResponse:
        vault = current_caller.get().vault_id
        turn = await self._database.read(get_turn, vault, turn_id=request.turn_id)
        return pb.GetTurnResponse(turn=turn_to_proto(turn))

    def _send(self, request: pb.SendMessageRequest, creator: str) -> Send:
        message = Message(
            message_id=self._clock.new_id("msg"),
            session_id=request.session_id,
            parent_message_id=None,
            role=Role.USER,
            content=self._content(request),
            turn_id=self._clock.new_id("turn"),
            creator=creator,
            model="",
            usage=None,
            create_time=self._clock.now(),
        )
        return Send(
            message=message,
            parent_message_id=request.parent_message_id if request.HasField("parent_message_id") else None,
            model=request.model,
            max_output_tokens=request.max_output_tokens,
            stop_sequences=tuple(request.stop_sequences),
            request=request_key("SendMessage", request),
        )

    def _content(self, request: pb.SendMessageRequest) -> Content:
        if sum(block.ByteSize() for block in request.content) > self._max_content_bytes:
            raise ContentTooLarge(limit_bytes=self._max_content_bytes)
        return content_from_proto(request.content)
