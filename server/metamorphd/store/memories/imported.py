"""Memories that an import brings."""

from collections.abc import Mapping
from typing import Any

from metamorphd.models.change import ChangeVerb
from metamorphd.models.memory import MemoryType, NewMemory
from metamorphd.store.database import Transaction
from metamorphd.store.memories.create import NUMBER_MEMORY, append_memory_change, find_repeated, key_of
from metamorphd.store.memories.rows import size_of, words_of_memory
from metamorphd.store.search.postings import MEMORIES, add_words
from metamorphd.store.sessions import encode_metadata

IMPORT_MEMORY = """
INSERT INTO memories (vault_id, memory_id, number, state, type, importance, path, content_key, superseded_by, creator,
    session_id, message_id, word_count, size, revision, create_time, update_time, last_use_time, expire_time, metadata,
    content)
VALUES (:vault_id, :memory_id, :number, :state, :type, :importance, :path, :content_key, :superseded_by, :creator,
    :session_id, :message_id, :word_count, :size, 1, :create_time, :update_time, :last_use_time, :expire_time,
    :metadata, :content)
"""
FIND_TAKEN = """
SELECT memory_id FROM memories WHERE vault_id = :vault_id AND memory_id = :memory_id
UNION ALL
SELECT memory_id FROM memories WHERE vault_id = :vault_id AND path IS NOT NULL AND path = :path
LIMIT 1
"""
KEPT = (
    *("memory_id", "state", "type", "importance", "path", "superseded_by", "creator", "session_id", "message_id"),
    *("create_time", "update_time", "last_use_time", "expire_time", "content"),
)


async def import_memory(tx: Transaction, *, record: Mapping[str, Any], now: int) -> bool:
    """Stores a memory, unless the vault has its ID, its path, or its type and content. Returns whether it did."""
    new = NewMemory(MemoryType(record["type"]), record["content"], path=record["path"])
    key = await key_of(tx, new)
    if await find_repeated(tx, key=key, now=now) is not None:
        return False
    if await tx.one(FIND_TAKEN, memory_id=record["memory_id"], path=record["path"]) is not None:
        return False
    vault = await tx.one(NUMBER_MEMORY)
    if vault is None:
        raise RuntimeError("a vault that has an import is missing")
    metadata, words = encode_metadata(record["metadata"]), words_of_memory(new.content)
    await tx.run(
        IMPORT_MEMORY,
        **{name: record[name] for name in KEPT},
        number=vault.number,
        content_key=key,
        metadata=metadata,
        word_count=len(words),
        size=size_of(content=new.content, metadata=metadata, path=new.path),
    )
    await add_words(tx, number=MEMORIES + vault.number, words=words, hash_key=vault.hash_key)
    await append_memory_change(tx, memory_id=record["memory_id"], verb=ChangeVerb.CREATED, now=now)
    return True
