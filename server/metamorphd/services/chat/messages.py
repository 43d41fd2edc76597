"""ChatService: messages."""

from collections.abc import Sequence

from metamorph_client.chat.v1 import chat_service_pb2 as pb

from metamorphd.clock import Clock
from metamorphd.errors import FieldViolation, RequestInvalid
from metamorphd.models.caller import Scope
from metamorphd.services.convert.message import match_to_proto, message_to_proto
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.messages import delete_message, get_message, list_messages
from metamorphd.store.search.query import MOST_PHRASES, phrases_of, search_messages
from metamorphd.store.search.words import Phrase

# Lower than for lists, because the full text of every match is read to make its excerpt.
LARGEST_SEARCH_PAGE = 100


class ChatMessages:
    """The message methods of ChatService."""

    _database: Database
    _clock: Clock

    async def ListMessages(self, request: pb.ListMessagesRequest, scope: Scope) -> pb.ListMessagesResponse:
        page = await self._database.read(
            list_messages,
            scope,
            session_id=request.session_id,
            leaf_message_id=request.leaf_message_id if request.HasField("leaf_message_id") else None,
            all_branches=request.all_branches,
            newest_first=request.order_by == pb.MESSAGE_ORDER_NEWEST_FIRST,
            after=decode_page_token(request, scope.vault_id, request.page_token, (str, int)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
        )
        return pb.ListMessagesResponse(
            messages=await convert_items(message_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def GetMessage(self, request: pb.GetMessageRequest, scope: Scope) -> pb.GetMessageResponse:
        message = await self._database.read(get_message, scope, message_id=request.message_id)
        return pb.GetMessageResponse(message=message_to_proto(message))

    async def DeleteMessage(self, request: pb.DeleteMessageRequest, scope: Scope) -> pb.DeleteMessageResponse:
        message, revision = await self._database.write(
            revised(delete_message), scope, message_id=request.message_id, now=self._clock.now()
        )
        return pb.DeleteMessageResponse(message=message_to_proto(message), revision=revision)

    async def SearchMessages(self, request: pb.SearchMessagesRequest, scope: Scope) -> pb.SearchMessagesResponse:
        page = await self._database.read(
            search_messages,
            scope,
            phrases=_phrases(request.query),
            session_id=request.session_id if request.HasField("session_id") else None,
            after=decode_page_token(request, scope.vault_id, request.page_token, (int,)),
            page_size=min(clamp_page_size(request.page_size), LARGEST_SEARCH_PAGE),
        )
        return pb.SearchMessagesResponse(
            results=await convert_items(match_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )


def _phrases(query: str) -> Sequence[Phrase]:
    phrases = phrases_of(query)
    if not phrases:
        raise RequestInvalid(violations=[FieldViolation("query", "contains no words")])
    if len(phrases) > MOST_PHRASES:
        raise RequestInvalid(violations=[FieldViolation("query", f"contains more than {MOST_PHRASES} words")])
    return phrases
