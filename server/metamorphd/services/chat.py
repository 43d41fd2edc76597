"""ChatService: convert, call, convert."""

from metamorph.chat.v1 import chat_service_pb2_grpc

from metamorphd.catalog import Catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.services.chat_messages import ChatMessages
from metamorphd.services.chat_models import ChatModels
from metamorphd.services.chat_sessions import ChatSessions
from metamorphd.services.chat_turns import ChatTurns
from metamorphd.store.database import Database


class ChatService(ChatSessions, ChatMessages, ChatTurns, ChatModels, chat_service_pb2_grpc.ChatServiceServicer):
    """Sessions, messages and turns of the caller's vault."""

    def __init__(
        self,
        *,
        database: Database,
        engine: TurnEngine,
        clock: Clock,
        catalog: Catalog,
        default_model: str,
        max_content_bytes: int,
    ) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._catalog = catalog
        self._default_model = default_model
        self._max_content_bytes = max_content_bytes
