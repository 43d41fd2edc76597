"""Erases what was deleted, in steps that hold the writer for a few milliseconds each.

A step reads, which finds the words of messages on a reader's thread, and then writes. Only steps change what is hidden,
but the index may change between the two, so the second checks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metamorphd.models.content import text_of
from metamorphd.store.attachments import erase_chunk, release_message
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Transaction
from metamorphd.store.erasures import Erasure, Resource, end_erasure
from metamorphd.store.memories.erase import erase_memory, read_memory_words
from metamorphd.store.search.postings import LastWords, read_last_words, remove_last_words

LIST_MESSAGES = """
SELECT messages.message_id, link.size
FROM messages CROSS JOIN message_links AS link
WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id
    AND link.vault_id = :vault_id AND link.message_id = messages.message_id
ORDER BY ordinal DESC
LIMIT :limit
"""
GET_STORED = """
SELECT message_id, session_id, content FROM messages WHERE vault_id = :vault_id AND message_id = :message_id
"""
COUNT_ERASED = """
UPDATE sessions SET message_count = message_count - 1 WHERE vault_id = :vault_id AND session_id = :session_id
"""
DELETE_MESSAGE = "DELETE FROM messages WHERE vault_id = :vault_id AND message_id = :message_id"
ERASE_CONTENT = """
UPDATE messages SET content = '[]', size = 2 WHERE vault_id = :vault_id AND message_id = :message_id
"""
LIST_TURNS = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id
ORDER BY turn_id DESC
LIMIT :limit
"""
DELETE_EVENTS = """
DELETE FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id AND sequence IN (
    SELECT sequence FROM events WHERE vault_id = :vault_id AND turn_id = :turn_id ORDER BY sequence LIMIT :limit
)
"""
DELETE_TURN = "DELETE FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
DELETE_SESSION = "DELETE FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id"

# The most that a step erases, but one message whole. Measured: docs/decisions/0029-deletion-hides-and-then-erases.md.
STEP_MESSAGES, STEP_WORDS, STEP_BYTES = 4, 96, 65_536
STEP_TURNS, STEP_EVENTS = 16, 200


@dataclass(frozen=True, slots=True)
class Part:
    """A message or a memory, and the last words by which it is indexed, None if it is not.

    `session_id` is empty for a memory.
    """

    id: str
    session_id: str
    words: LastWords | None


async def read_part(tx: Transaction, *, erasure: Erasure) -> tuple[Part, ...]:
    """Returns the messages, or the memory, that the next step erases, the last one perhaps in part."""
    match erasure.resource:
        case Resource.SESSION:
            listed = await tx.all(LIST_MESSAGES, session_id=erasure.id, limit=STEP_MESSAGES)
        case Resource.MESSAGE:
            message = await _read_message(tx, erasure.id, STEP_WORDS)
            # Its session may have been erased with it.
            return () if message is None else (message,)
        case Resource.ATTACHMENT:
            return ()
        case Resource.MEMORY:
            return (Part(erasure.id, "", await read_memory_words(tx, memory_id=erasure.id, limit=STEP_WORDS)),)
    parts: list[Part] = []
    words, size = STEP_WORDS, STEP_BYTES
    for row in listed:
        size -= row.size
        if parts and size < 0:
            break
        part = await _read_message(tx, row.message_id, words)
        if part is None:
            raise RuntimeError("a message of the same snapshot is missing")
        parts.append(part)
        words -= 0 if part.words is None else len(part.words.words)
        if words <= 0 or size < 0:
            break
    return tuple(parts)


async def _read_message(tx: Transaction, message_id: str, limit: int) -> Part | None:
    stored = await tx.one(GET_STORED, message_id=message_id)
    if stored is None:
        return None
    text = text_of(decode_content(stored.content))
    words = await read_last_words(tx, session_id=stored.session_id, message_id=message_id, text=text, limit=limit)
    return Part(message_id, stored.session_id, words)


async def erase_step(tx: Transaction, *, erasure: Erasure, parts: Sequence[Part], now: int) -> None:
    """Erases a part of a hidden resource, of which `read_part` has returned `parts`."""
    match erasure.resource:
        case Resource.SESSION:
            left = await _erase_session(tx, erasure.id, parts, now=now)
        case Resource.MESSAGE:
            left = await _erase_content(tx, parts)
        case Resource.ATTACHMENT:
            left = await erase_chunk(tx, attachment_id=erasure.id)
        case Resource.MEMORY:
            left = await erase_memory(tx, memory_id=erasure.id, last=parts[0].words)
    if not left:
        await end_erasure(tx, erasure=erasure)


async def _erase_session(tx: Transaction, session_id: str, parts: Sequence[Part], *, now: int) -> bool:
    """Erases messages; if there are none, turns; then the session. Returns whether something is left."""
    for part in parts:
        if part.words is not None and await remove_last_words(tx, last=part.words):
            return True
        await release_message(tx, session_id=session_id, message_id=part.id, now=now)
        await tx.run(DELETE_MESSAGE, message_id=part.id)
        await tx.run(COUNT_ERASED, session_id=session_id)
    if parts or await _erase_turns(tx, session_id):
        return True
    await tx.run(DELETE_SESSION, session_id=session_id)
    return False


async def _erase_turns(tx: Transaction, session_id: str) -> bool:
    """Erases turns whose events are few, or a part of the events of one. Returns False if there are no turns."""
    turns = await tx.all(LIST_TURNS, session_id=session_id, limit=STEP_TURNS)
    events = 0
    for turn in turns:
        events += await tx.run(DELETE_EVENTS, turn_id=turn.turn_id, limit=STEP_EVENTS - events)
        if events >= STEP_EVENTS:
            break
        await tx.run(DELETE_TURN, turn_id=turn.turn_id)
    return bool(turns)


async def _erase_content(tx: Transaction, parts: Sequence[Part]) -> bool:
    """Erases a message but its place in the branch. Returns whether words are left."""
    for part in parts:
        if part.words is not None and await remove_last_words(tx, last=part.words):
            return True
        await tx.run(ERASE_CONTENT, message_id=part.id)
    return False
