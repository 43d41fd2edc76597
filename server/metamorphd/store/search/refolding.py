"""Indexing anew, in steps, what was indexed by words of an earlier folding.

Messages keep their numbers, so pages stay where they are. A step reads the newest such messages and then writes, like
those of `indexing`. One whose words are the same, as those of English are, is only marked. Of others the earlier words
are removed, from the last on, and the first new ones take their place; further ones are added as pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metamorphd.models.content import text_of
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Transaction, grows
from metamorphd.store.search.indexing import GET_LIVE, PENDING_WORDS
from metamorphd.store.search.postings import (
    COUNT_WORDS,
    EARLIER_FOLDING,
    FOLDING,
    GET_INDEXED,
    add_words,
    indexed_words,
    remove_words,
)
from metamorphd.store.search.words import SEARCHED_CHARACTERS

# Each about 5 ms of the writer, or of a reader.
REFOLDED_MESSAGES = 32
REFOLDED_CHARACTERS = 8_192
REFOLDED_WORDS = 192

GET_EARLIER_FOLDED = """
SELECT indexed_messages.message_id, number, word_count, session_id, content
FROM indexed_messages LEFT JOIN messages
    ON messages.vault_id = :vault_id AND messages.message_id = indexed_messages.message_id
WHERE indexed_messages.vault_id = :vault_id AND folding = 1 AND number < :below
ORDER BY number DESC
LIMIT 1
"""
# Above every number.
TOP = 2**62


@dataclass(frozen=True, slots=True)
class Refolding:
    """Words of a message, of which the earlier folding's first `word_count` are in the index.

    `removed` are the last of them, which `preceding` others precede. If there are none, `added` are the first words of
    this folding, and `last` says that no others follow. Where the words are the same, none are removed or added.
    """

    message_id: str
    word_count: int
    same: bool
    removed: Sequence[str]
    preceding: int
    added: Sequence[str]
    last: bool


async def read_earlier_folded(tx: Transaction) -> tuple[Refolding, ...]:
    """Returns what is next of the newest messages that are indexed by the earlier words, newest first."""
    found: list[Refolding] = []
    below, characters, words = TOP, 0, 0
    while len(found) < REFOLDED_MESSAGES and characters < REFOLDED_CHARACTERS and words < REFOLDED_WORDS:
        row = await tx.one(GET_EARLIER_FOLDED, below=below)
        if row is None:
            break
        text = "" if row.content is None else text_of(decode_content(row.content))[:SEARCHED_CHARACTERS]
        refolding = _refolding(row.message_id, row.word_count, row.session_id or "", text)
        found.append(refolding)
        below, characters = row.number, characters + len(text)
        words += len(refolding.removed) + len(refolding.added)
    return tuple(found)


def _refolding(message_id: str, word_count: int, session_id: str, text: str) -> Refolding:
    earlier, words = (indexed_words(session_id, text, folding=folding) for folding in (EARLIER_FOLDING, FOLDING))
    if earlier == words:
        return Refolding(message_id, word_count, same=True, removed=(), preceding=0, added=(), last=False)
    preceding = max(0, word_count - PENDING_WORDS)
    return Refolding(
        message_id,
        word_count,
        same=False,
        removed=earlier[preceding:word_count],
        preceding=preceding,
        added=() if preceding else words[:PENDING_WORDS],
        last=len(words) <= PENDING_WORDS,
    )


@grows
async def refold_messages(tx: Transaction, *, messages: Sequence[Refolding]) -> None:
    """Indexes messages anew, or a part of one, but those that were indexed or erased since they were read."""
    for message in messages:
        row = await tx.one(GET_INDEXED, message_id=message.message_id)
        if row is None or (row.folding, row.word_count) != (EARLIER_FOLDING, message.word_count):
            continue
        word_count, folding, pending = row.word_count, FOLDING, bool(row.pending)
        if not message.same:
            await remove_words(tx, number=row.number, words=message.removed, hash_key=row.hash_key)
            word_count, folding, pending = message.preceding, EARLIER_FOLDING, False
        if not (message.same or message.preceding):
            # Of one that is hidden, the words are not needed any more.
            added = message.added if await tx.one(GET_LIVE, message_id=message.message_id) else ()
            await add_words(tx, number=row.number, words=added, hash_key=row.hash_key)
            word_count, folding, pending = len(added), FOLDING, bool(added) and not message.last
        await tx.run(COUNT_WORDS, number=row.number, word_count=word_count, pending=pending, folding=folding)
