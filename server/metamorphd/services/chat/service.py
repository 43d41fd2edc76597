"""ChatService: convert, call, convert."""

from metamorphd.catalog import Catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.services.chat.attachments import ChatAttachments
from metamorphd.services.chat.messages import ChatMessages
from metamorphd.services.chat.models import ChatModels
from metamorphd.services.chat.sessions import ChatSessions
from metamorphd.services.chat.turns import ChatTurns
from metamorphd.services.chat.uploads import Uploads
from metamorphd.store.database import Database


class ChatService(ChatSessions, ChatMessages, ChatTurns, ChatAttachments, ChatModels):
    """Implements ChatService: sessions, messages, turns and attachments of the caller's vault, and models."""

    def __init__(
        self,
        *,
        database: Database,
        engine: TurnEngine,
        clock: Clock,
        uploads: Uploads,
        catalog: Catalog,
        default_model: str,
        max_content_bytes: int,
        storage_limit: int,
    ) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._uploads = uploads
        self._catalog = catalog
        self._default_model = default_model
        self._max_content_bytes = max_content_bytes
        self._storage_limit = storage_limit
