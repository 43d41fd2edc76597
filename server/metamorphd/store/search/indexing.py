"""Indexing in steps what was not indexed when it was stored.

These are the further words of long messages, and messages that were stored before there was this index: the newest of
them first, because each gets a number below all others. A step reads, which finds the words on a reader's thread, and
then writes. Between the two a message may be deleted or indexed, so the second checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metamorphd.models.content import text_of
from metamorphd.store.codec import decode_content
from metamorphd.store.database import SystemTransaction, Transaction, grows
from metamorphd.store.search.postings import (
    COUNT_WORDS,
    GET_INDEXED,
    add_words,
    index_message,
    indexed_words,
)
from metamorphd.store.search.words import SEARCHED_CHARACTERS

# Each about 5 ms of the writer.
PENDING_WORDS = 128
EARLIER_MESSAGES = 8
EARLIER_CHARACTERS = 4_096

FIND_VAULT = """
SELECT MIN(found.vault_id) AS vault_id FROM (
    SELECT MIN(vault_id) AS vault_id FROM vaults WHERE unindexed_before IS NOT NULL AND vault_id > :after
    UNION ALL
    SELECT MIN(vault_id) AS vault_id FROM indexed_messages WHERE pending = 1 AND vault_id > :after
    UNION ALL
    SELECT MIN(vault_id) AS vault_id FROM indexed_messages WHERE folding = 1 AND vault_id > :after
) AS found
"""
GET_PENDING = """
SELECT indexed_messages.message_id, indexed_messages.number, word_count, folding, session_id, content
FROM indexed_messages LEFT JOIN messages
    ON messages.vault_id = :vault_id AND messages.message_id = indexed_messages.message_id
WHERE indexed_messages.vault_id = :vault_id
    AND number = (SELECT MIN(number) FROM indexed_messages WHERE vault_id = :vault_id AND pending = 1)
"""
GET_WATERMARK = "SELECT unindexed_before FROM vaults WHERE vault_id = :vault_id"
GET_EARLIER = """
SELECT message_id, session_id, content FROM messages
WHERE vault_id = :vault_id AND message_id < :before
ORDER BY message_id DESC
LIMIT 1
"""
# Those that an import stages are not deleted: see store/staging.py.
GET_LIVE = """
SELECT message_id FROM messages CROSS JOIN sessions
WHERE messages.vault_id = :vault_id AND message_id = :message_id AND messages.delete_time IS NULL
    AND sessions.vault_id = :vault_id AND sessions.session_id = messages.session_id
    AND (sessions.delete_time IS NULL OR sessions.delete_time = 0)
"""
MOVE_WATERMARK = "UPDATE vaults SET unindexed_before = :before WHERE vault_id = :vault_id"


@dataclass(frozen=True, slots=True)
class PendingWords:
    """Words of a message that is indexed by its first `word_count` ones. `last` if no others follow."""

    message_id: str
    folding: int
    word_count: int
    words: Sequence[str]
    last: bool


@dataclass(frozen=True, slots=True)
class EarlierMessage:
    """A message that was stored before there was this index."""

    message_id: str
    session_id: str
    text: str


async def find_vault_to_index(tx: SystemTransaction, *, after: str) -> str | None:
    """Returns the first vault with an ID above `after` in which something is left to be indexed, or None."""
    row = await tx.one(FIND_VAULT, after=after)
    return None if row is None else row.vault_id


async def read_pending_words(tx: Transaction) -> PendingWords | None:
    """Returns the next words of a message that is only indexed by its first words, or None if there is none."""
    row = await tx.one(GET_PENDING)
    if row is None:
        return None
    every = []
    if row.content is not None:
        every = indexed_words(row.session_id, text_of(decode_content(row.content)), folding=row.folding)
    end, words = row.word_count + PENDING_WORDS, every[row.word_count : row.word_count + PENDING_WORDS]
    return PendingWords(row.message_id, row.folding, row.word_count, words, last=end >= len(every))


@grows
async def add_pending_words(tx: Transaction, *, pending: PendingWords) -> None:
    """Indexes a message by further words, unless it was indexed or deleted since they were read."""
    row = await tx.one(GET_INDEXED, message_id=pending.message_id)
    if row is None or not row.pending or (row.folding, row.word_count) != (pending.folding, pending.word_count):
        return
    words = pending.words if await tx.one(GET_LIVE, message_id=pending.message_id) else ()
    await add_words(tx, number=row.number, words=words, hash_key=row.hash_key)
    await tx.run(
        COUNT_WORDS,
        number=row.number,
        word_count=row.word_count + len(words),
        pending=bool(words) and not pending.last,
        folding=row.folding,
    )


async def read_earlier_messages(tx: Transaction) -> tuple[EarlierMessage, ...] | None:
    """Returns the newest messages that are not indexed yet, newest first, or None if all of the vault's are indexed."""
    watermark = await tx.one(GET_WATERMARK)
    if watermark is None or watermark.unindexed_before is None:
        return None
    found: list[EarlierMessage] = []
    characters, before = 0, watermark.unindexed_before
    while len(found) < EARLIER_MESSAGES and characters < EARLIER_CHARACTERS:
        row = await tx.one(GET_EARLIER, before=before)
        if row is None:
            break
        text = text_of(decode_content(row.content))[:SEARCHED_CHARACTERS]
        found.append(EarlierMessage(row.message_id, row.session_id, text))
        characters, before = characters + len(text), row.message_id
    return tuple(found)


@grows
async def index_earlier_messages(tx: Transaction, *, messages: Sequence[EarlierMessage]) -> None:
    """Indexes messages that `read_earlier_messages` returned, but those that were deleted since. None ends the work."""
    watermark = await tx.one(GET_WATERMARK)
    if watermark is None or watermark.unindexed_before is None:
        return
    for message in messages:
        if message.message_id >= watermark.unindexed_before:
            continue
        if await tx.one(GET_LIVE, message_id=message.message_id) is None:
            continue
        if await tx.one(GET_INDEXED, message_id=message.message_id) is None:
            await index_message(
                tx,
                session_id=message.session_id,
                message_id=message.message_id,
                text=message.text,
                earlier=True,
            )
    await tx.run(MOVE_WATERMARK, before=messages[-1].message_id if messages else None)
