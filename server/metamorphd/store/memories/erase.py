"""Erases memories that are hidden, in steps."""

from metamorphd.store.database import Transaction
from metamorphd.store.memories.rows import words_of_memory
from metamorphd.store.search.postings import FOLDING, MEMORIES, LastWords, remove_words

GET_HIDDEN = """
SELECT number, word_count, content, hash_key FROM memories CROSS JOIN vaults
WHERE memories.vault_id = :vault_id AND memory_id = :memory_id AND state = -1 AND vaults.vault_id = :vault_id
"""
COUNT_LEFT = "UPDATE memories SET word_count = :word_count WHERE vault_id = :vault_id AND memory_id = :memory_id"
ERASE_MEMORY = "DELETE FROM memories WHERE vault_id = :vault_id AND memory_id = :memory_id"


async def read_memory_words(tx: Transaction, *, memory_id: str, limit: int) -> LastWords | None:
    """Returns at most `limit` of the last words by which a hidden memory is indexed, or None if it is not there."""
    row = await tx.one(GET_HIDDEN, memory_id=memory_id)
    if row is None:
        return None
    preceding = max(0, row.word_count - limit)
    words = words_of_memory(row.content)[preceding : row.word_count]
    return LastWords(memory_id, FOLDING, row.word_count, words, preceding)


async def erase_memory(tx: Transaction, *, memory_id: str, last: LastWords | None) -> bool:
    """Removes words of a hidden memory from the index and, with the first ones, the memory. Returns whether it is left.

    Only this changes what is hidden, so the words are still those that `read_memory_words` returned.
    """
    row = await tx.one(GET_HIDDEN, memory_id=memory_id)
    if row is None or last is None:
        return False
    await remove_words(tx, number=MEMORIES + row.number, words=last.words, hash_key=row.hash_key)
    if last.preceding:
        await tx.run(COUNT_LEFT, memory_id=memory_id, word_count=last.preceding)
    else:
        await tx.run(ERASE_MEMORY, memory_id=memory_id)
    return bool(last.preceding)
