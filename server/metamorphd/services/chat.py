"""ChatService: convert, call, convert."""

from metamorph.chat.v1 import chat_service_pb2_grpc

from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.services.chat_messages import ChatMessages
from metamorphd.services.chat_sessions import ChatSessions
from metamorphd.services.chat_turns import ChatTurns
from metamorphd.store.database import Database


class ChatService(ChatSessions, ChatMessages, ChatTurns, chat_service_pb2_grpc.ChatServiceServicer):
    """Sessions, messages and turns of the caller's vault."""

    def __init__(self, *, database: Database, engine: TurnEngine, clock: Clock, max_content_bytes: int) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._max_content_bytes = max_content_bytes
