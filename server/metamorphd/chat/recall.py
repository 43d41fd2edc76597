"""Puts memories of the vault to a message, before it is stored: what later prompts say of it is then the same."""

from collections.abc import Iterable
from dataclasses import replace

import structlog

from metamorphd.errors import OperationTimeout, SearchTooBroad, StoreBusy
from metamorphd.memories.memories import Memories
from metamorphd.models.caller import Scope
from metamorphd.models.content import RecalledBlock, ToolResultBlock, text_of
from metamorphd.models.memory import Memory, MemoryMatch
from metamorphd.models.message import Message
from metamorphd.store.database import Database
from metamorphd.store.sessions import get_recall_tokens

logger = structlog.get_logger(__name__)

BYTES_OF_A_TOKEN = 3
MOST_RECALLED = 16
# Of a long text, words of its beginning are looked for.
QUERY_CHARACTERS = 4_096
READ = "read"
HEADING = "What you remember from earlier conversations, which may help:"


class Recall:
    """Finds memories for messages of sessions that ask for them, by `recall_tokens`."""

    def __init__(self, *, database: Database, memories: Memories) -> None:
        self._database = database
        self._memories = memories

    async def with_memories(self, scope: Scope, message: Message, *, used: bool = True) -> Message:
        """Returns a user's message with the memories that suit it best, at the end of its content.

        One that answers tools stays as it is, and so does one of a session that is not there, or of a caller who may
        not read.
        """
        tokens = await self._database.read(get_recall_tokens, scope, session_id=message.session_id)
        if not tokens or READ not in scope.actor.permissions:
            return message
        if any(isinstance(block, ToolResultBlock) for block in message.content):
            return message
        text = text_of(message.content)[:QUERY_CHARACTERS]
        try:
            found = await self._memories.search(
                scope, query=text, type_=None, limit=MOST_RECALLED, common_words=False, used=used
            )
        except (StoreBusy, SearchTooBroad, OperationTimeout) as error:
            # Better a reply without them than none.
            logger.warning("no memories were put to a message", reason=error.reason_name(), vaultId=scope.vault_id)
            return message
        block = recalled(found, most_bytes=tokens * BYTES_OF_A_TOKEN)
        return message if block is None else replace(message, content=(*message.content, block))


def recalled(matches: Iterable[MemoryMatch], *, most_bytes: int) -> RecalledBlock | None:
    """Returns the best memories whose text has at most `most_bytes`, or None if there is none."""
    text, memory_ids = HEADING, []
    for match in matches:
        line = _line(match.memory)
        if len((text + line).encode()) > most_bytes:
            continue
        text += line
        memory_ids.append(match.memory.memory_id)
    return RecalledBlock(text, tuple(memory_ids)) if memory_ids else None


def _line(memory: Memory) -> str:
    # A memory of several lines is still one item.
    return "\n- " + "\n  ".join(memory.content.splitlines())
