"""ChatService: turns."""

from collections.abc import AsyncIterator, Sequence

from metamorph_client.chat.v1 import chat_service_pb2 as pb

from metamorphd.chat.engine import Regeneration, Send, TurnEngine
from metamorphd.clock import Clock
from metamorphd.errors import ContentTooLarge, FieldViolation, RequestInvalid
from metamorphd.models.caller import Scope
from metamorphd.models.content import Content, TextBlock, ToolResultBlock, text_size
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import TurnEvent, TurnFinished, TurnStarted
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.convert.content import content_from_proto, with_uploads
from metamorphd.services.convert.field_path import within
from metamorphd.services.convert.generation import options_from_proto
from metamorphd.services.convert.turn import ResponseT, status_from_proto, turn_to_proto, with_event
from metamorphd.services.idempotency import idempotency_key
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.changes import get_revision
from metamorphd.store.database import Database
from metamorphd.store.turns.read import get_turn, list_turns


class ChatTurns:
    """The turn methods of ChatService."""

    _database: Database
    _engine: TurnEngine
    _clock: Clock
    _uploads: Uploads
    _max_content_bytes: int

    async def SendMessage(
        self, request: pb.SendMessageRequest, scope: Scope, carried: Sequence[memoryview]
    ) -> AsyncIterator[pb.SendMessageResponse | None]:
        send = await self._send(request, carried, scope.actor.user_id)
        # They may be of megabytes, and the turn takes minutes.
        del request, carried
        turn = await self._engine.send_message(scope, send=send)
        del send
        async for event in self._engine.follow(scope, turn_id=turn.turn_id, after_sequence=0):
            yield await self._response(scope, pb.SendMessageResponse(), event)

    async def CountTokens(
        self, request: pb.CountTokensRequest, scope: Scope, carried: Sequence[memoryview]
    ) -> pb.CountTokensResponse:
        with within("message"):
            send = await self._send(request.message, carried, scope.actor.user_id)
            tokens = await self._engine.count_tokens(scope, send=send)
        return pb.CountTokensResponse(input_tokens=tokens)

    async def StreamTurn(
        self, request: pb.StreamTurnRequest, scope: Scope
    ) -> AsyncIterator[pb.StreamTurnResponse | None]:
        events = self._engine.follow(scope, turn_id=request.turn_id, after_sequence=request.after_sequence)
        async for event in events:
            yield await self._response(scope, pb.StreamTurnResponse(), event)

    async def GetTurn(self, request: pb.GetTurnRequest, scope: Scope) -> pb.GetTurnResponse:
        turn = await self._database.read(get_turn, scope, turn_id=request.turn_id)
        return pb.GetTurnResponse(turn=turn_to_proto(turn))

    async def ListTurns(self, request: pb.ListTurnsRequest, scope: Scope) -> pb.ListTurnsResponse:
        page = await self._database.read(
            list_turns,
            scope,
            session_id=request.session_id,
            status=status_from_proto(request.status),
            after=decode_page_token(request, scope.vault_id, request.page_token, (str,)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
        )
        return pb.ListTurnsResponse(
            turns=await convert_items(turn_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def CancelTurn(self, request: pb.CancelTurnRequest, scope: Scope) -> pb.CancelTurnResponse:
        turn = await self._engine.cancel_turn(scope, turn_id=request.turn_id)
        revision = await self._database.read(get_revision, scope)
        return pb.CancelTurnResponse(turn=turn_to_proto(turn), revision=revision)

    async def RegenerateReply(
        self, request: pb.RegenerateReplyRequest, scope: Scope
    ) -> AsyncIterator[pb.RegenerateReplyResponse | None]:
        regeneration = Regeneration(
            turn_id=self._clock.new_id("turn"),
            user_message_id=request.user_message_id,
            options=options_from_proto(request.options, limit_bytes=self._max_content_bytes),
            labels=dict(request.labels),
            request=idempotency_key("RegenerateReply", request),
            now=self._clock.now(),
        )
        turn = await self._engine.regenerate_reply(scope, regeneration=regeneration)
        async for event in self._engine.follow(scope, turn_id=turn.turn_id, after_sequence=0):
            yield await self._response(scope, pb.RegenerateReplyResponse(), event)

    async def _response(self, scope: Scope, response: ResponseT, event: TurnEvent | None) -> ResponseT | None:
        """Returns the response with an event, and with the vault's revision if the event is one that is in its log."""
        if event is None:
            return None
        if isinstance(event, TurnStarted | TurnFinished):
            response.revision = await self._database.read(get_revision, scope)
        return with_event(response, event)

    async def _send(self, request: pb.SendMessageRequest, carried: Sequence[memoryview], creator: str) -> Send:
        content, included = content_from_proto(request.content, carried)
        if text_size(content) > self._max_content_bytes:
            raise ContentTooLarge(limit_bytes=self._max_content_bytes)
        uploads = []
        _refuse_errors_with_attachments(content)
        for block, path, data in included:
            upload = await self._uploads.checked(block.media_type, data, field=path)
            # Part of the request's identity, as the bytes are.
            block.data = bytes.fromhex(upload.sha256)
            uploads.append(upload)
        message = Message(
            message_id=self._clock.new_id("msg"),
            session_id=request.session_id,
            parent_message_id=None,
            role=Role.USER,
            content=with_uploads(content, uploads),
            turn_id=self._clock.new_id("turn"),
            creator=creator,
            model="",
            usage=None,
            create_time=self._clock.now(),
        )
        return Send(
            message=message,
            uploads=tuple(uploads),
            parent_message_id=request.parent_message_id if request.HasField("parent_message_id") else None,
            options=options_from_proto(request.options, limit_bytes=self._max_content_bytes),
            labels=dict(request.labels),
            request=idempotency_key("SendMessage", request),
        )


def _refuse_errors_with_attachments(content: Content) -> None:
    """Raises RequestInvalid for results that report an error with more than text, which the provider rejects."""
    violations = [
        FieldViolation(f"content[{place}].tool_result.content", "must be text, since is_error is set")
        for place, block in enumerate(content)
        if isinstance(block, ToolResultBlock) and block.is_error
        if any(not isinstance(part, TextBlock) for part in block.content)
    ]
    if violations:
        raise RequestInvalid(violations=violations)
