"""ChatService: sessions."""

from metamorph_client.chat.v1 import chat_service_pb2 as pb

from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.models.session import SessionChanges
from metamorphd.services.convert.session import session_to_proto
from metamorphd.services.idempotency import idempotency_key
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.services.update_mask import masked
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.session_lists import list_sessions
from metamorphd.store.sessions import create_session, get_session, update_session

SETTABLE = {"title", "model", "system_prompt", "metadata", "labels", "archived", "recall_tokens", "memory_tool"}


class ChatSessions:
    """The session methods of ChatService."""

    _database: Database
    _engine: TurnEngine
    _clock: Clock
    _storage_limit: int

    async def CreateSession(self, request: pb.CreateSessionRequest, scope: Scope) -> pb.CreateSessionResponse:
        session, revision = await self._database.write(
            revised(create_session),
            scope,
            session_id=self._clock.new_id("ses"),
            title=request.session.title,
            model=request.session.model,
            system_prompt=request.session.system_prompt,
            metadata=request.session.metadata,
            labels=request.session.labels,
            archived=request.session.archived,
            recall_tokens=request.session.recall_tokens,
            memory_tool=request.session.memory_tool,
            request=idempotency_key("CreateSession", request),
            hash_key=self._clock.new_key(),
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )
        return pb.CreateSessionResponse(session=session_to_proto(session), revision=revision)

    async def GetSession(self, request: pb.GetSessionRequest, scope: Scope) -> pb.GetSessionResponse:
        session = await self._database.read(get_session, scope, session_id=request.session_id)
        return pb.GetSessionResponse(session=session_to_proto(session))

    async def ListSessions(self, request: pb.ListSessionsRequest, scope: Scope) -> pb.ListSessionsResponse:
        page = await self._database.read(
            list_sessions,
            scope,
            after=decode_page_token(request, scope.vault_id, request.page_token, (int, str)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
            archived=request.archived if request.HasField("archived") else None,
            creator=request.creator if request.HasField("creator") else None,
            metadata=request.metadata,
        )
        return pb.ListSessionsResponse(
            sessions=await convert_items(session_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def UpdateSession(self, request: pb.UpdateSessionRequest, scope: Scope) -> pb.UpdateSessionResponse:
        session, revision = await self._database.write(
            revised(update_session),
            scope,
            session_id=request.session.session_id,
            changes=SessionChanges(**masked(request.session, request.update_mask, SETTABLE)),
            etag=request.session.etag,
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )
        return pb.UpdateSessionResponse(session=session_to_proto(session), revision=revision)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, scope: Scope) -> pb.DeleteSessionResponse:
        revision = await self._engine.delete_session(scope, session_id=request.session_id, etag=request.etag)
        return pb.DeleteSessionResponse(revision=revision)
