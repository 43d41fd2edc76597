"""Lists as iterators, which ask for page after page."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from google.protobuf.message import Message as ProtoMessage

from metamorph_client.chat.v1.chat_service_pb2 import (
    ListMessagesRequest,
    ListSessionsRequest,
    ListTurnsRequest,
    MessageMatch,
    MessageOrder,
    SearchMessagesRequest,
)
from metamorph_client.chat.v1.message_pb2 import Message
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import Turn, TurnStatus
from metamorph_client.stubs import Stubs
from metamorph_client.vault.v1.memory_pb2 import Memory, MemoryType
from metamorph_client.vault.v1.vault_service_pb2 import ListMemoriesRequest, MemoryOrder


class Lists(Stubs):
    """The methods of a client that list or search."""

    def list_sessions(
        self,
        *,
        archived: bool | None = None,
        creator: str | None = None,
        metadata: Mapping[str, str] | None = None,
        page_size: int = 0,
    ) -> AsyncGenerator[Session]:
        """Yields sessions, newest activity first, over as many pages as there are. Raises MetamorphError."""
        request = ListSessionsRequest(archived=archived, creator=creator, metadata=metadata, page_size=page_size)
        return self.pages(self.chat.ListSessions, request)

    def list_messages(
        self,
        session_id: str,
        *,
        leaf_message_id: str | None = None,
        all_branches: bool = False,
        order_by: MessageOrder.ValueType = MessageOrder.MESSAGE_ORDER_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncGenerator[Message]:
        """Yields the messages of a branch, by default the current one, oldest first. Raises MetamorphError."""
        request = ListMessagesRequest(
            session_id=session_id,
            leaf_message_id=leaf_message_id,
            all_branches=all_branches,
            order_by=order_by,
            page_size=page_size,
        )
        return self.pages(self.chat.ListMessages, request)

    def list_turns(
        self,
        session_id: str,
        *,
        status: TurnStatus.ValueType = TurnStatus.TURN_STATUS_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncGenerator[Turn]:
        """Yields a session's turns, newest first. Raises MetamorphError."""
        request = ListTurnsRequest(session_id=session_id, status=status, page_size=page_size)
        return self.pages(self.chat.ListTurns, request)

    def list_memories(
        self,
        *,
        type: MemoryType.ValueType = MemoryType.MEMORY_TYPE_UNSPECIFIED,  # noqa: A002
        order_by: MemoryOrder.ValueType = MemoryOrder.MEMORY_ORDER_UNSPECIFIED,
        superseded: bool = False,
        superseded_by: str = "",
        page_size: int = 0,
    ) -> AsyncGenerator[Memory]:
        """Yields the vault's memories. Raises MetamorphError."""
        request = ListMemoriesRequest(
            type=type, order_by=order_by, superseded=superseded, superseded_by=superseded_by, page_size=page_size
        )
        return self.pages(self.vault.ListMemories, request)

    def search_messages(
        self, query: str, *, session_id: str | None = None, page_size: int = 0
    ) -> AsyncGenerator[MessageMatch]:
        """Yields the messages that have all words of a query, newest first. Raises MetamorphError."""
        request = SearchMessagesRequest(query=query, session_id=session_id, page_size=page_size)
        return self.pages(self.chat.SearchMessages, request)

    def pages(self, method: Callable[[Any], Any], request: ProtoMessage) -> AsyncGenerator[Any]:
        """Yields what every page of a List or Search method has, such as `pages(client.vault.ListSecrets, request)`.

        Raises MetamorphError, and TypeError for a method that has no pages.
        """
        return each(method, request)


async def each(method: Callable[[Any], Any], request: ProtoMessage) -> AsyncGenerator[Any]:
    """Yields what the pages of a list have, in order. Raises MetamorphError, and TypeError if there are no pages."""
    if "page_token" not in request.DESCRIPTOR.fields_by_name:
        raise TypeError(f"{request.DESCRIPTOR.name} asks for no pages")
    asked: Any = type(request)()
    asked.CopyFrom(request)
    while True:
        page = await method(asked)
        # Its first list (AIP-158). GetUsage has another one beside the pages.
        for value in getattr(page, next(field.name for field in page.DESCRIPTOR.fields if field.is_repeated)):
            yield value
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token
