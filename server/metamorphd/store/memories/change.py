"""Changes and deletes memories."""

from collections.abc import Sequence
from dataclasses import replace

import orjson

from metamorphd.errors import EtagMismatch, MemoryExists
from metamorphd.models.change import ChangeVerb
from metamorphd.models.changes import changed
from metamorphd.models.memory import Memory, MemoryChanges, NewMemory
from metamorphd.store.database import SystemTransaction, Transaction, grows
from metamorphd.store.memories.create import append_memory_change, find_repeated, hide_memory, key_of
from metamorphd.store.memories.read import get_memory
from metamorphd.store.memories.rows import size_of, words_of_memory
from metamorphd.store.search.postings import MEMORIES, add_words, remove_words
from metamorphd.store.sessions import encode_metadata
from metamorphd.store.storage import require_storage

UPDATE_MEMORY = """
UPDATE memories
SET type = :type, content = :content, importance = :importance, metadata = :metadata, expire_time = :expire_time,
    content_key = :content_key, word_count = :word_count, size = :size, revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND memory_id = :memory_id
"""
GET_NUMBER = """
SELECT number, hash_key FROM memories CROSS JOIN vaults
WHERE memories.vault_id = :vault_id AND memory_id = :memory_id AND vaults.vault_id = :vault_id
"""
USE_MEMORIES = """
UPDATE memories SET last_use_time = :now
WHERE vault_id = :vault_id AND memory_id IN (SELECT value FROM json_each(:memory_ids)) AND last_use_time < :now
"""
GET_EXPIRED = """
SELECT memory_id FROM memories
WHERE vault_id = :vault_id AND memory_id = :memory_id AND state >= 0 AND expire_time <= :now
"""
LIST_EXPIRED = """
SELECT vault_id, memory_id FROM memories
WHERE expire_time <= :now ORDER BY expire_time, vault_id, memory_id LIMIT :limit
"""


@grows
async def update_memory(
    tx: Transaction, *, memory_id: str, changes: MemoryChanges, etag: str, storage_limit: int, now: int
) -> Memory:
    """Changes fields of a memory. Raises MemoryNotFound, EtagMismatch, MemoryExists, StorageQuotaExceeded.

    `etag` is the revision that must still be in force; empty is unconditional.
    """
    memory = await _require(tx, memory_id=memory_id, etag=etag, now=now)
    new = changed(memory, changes)
    new = replace(new, expire_time=new.expire_time or None)
    key = await key_of(tx, NewMemory(new.type, new.content, path=new.path))
    other = await find_repeated(tx, key=key, now=now)
    if other is not None and other.memory_id != memory_id:
        raise MemoryExists(memory_id=other.memory_id)
    size, metadata = _size(new), encode_metadata(new.metadata)
    if size > _size(memory):
        await require_storage(tx, added_bytes=size - _size(memory), default_limit=storage_limit)
    await tx.run(
        UPDATE_MEMORY,
        memory_id=memory_id,
        type=new.type,
        content=new.content,
        importance=new.importance,
        metadata=metadata,
        expire_time=new.expire_time,
        content_key=key,
        word_count=await _index_anew(tx, memory, new),
        size=size,
        now=now,
    )
    await append_memory_change(tx, memory_id=memory_id, verb=ChangeVerb.UPDATED, now=now)
    return await get_memory(tx, memory_id=memory_id, now=now)


async def _require(tx: Transaction, *, memory_id: str, etag: str, now: int) -> Memory:
    memory = await get_memory(tx, memory_id=memory_id, now=now)
    if etag and etag != str(memory.revision):
        raise EtagMismatch
    return memory


def _size(memory: Memory) -> int:
    return size_of(content=memory.content, metadata=encode_metadata(memory.metadata), path=memory.path)


async def _index_anew(tx: Transaction, memory: Memory, new: Memory) -> int:
    """Replaces the words that the two do not have in common, and returns how many the new one has."""
    before, after = words_of_memory(memory.content), words_of_memory(new.content)
    row = await tx.one(GET_NUMBER, memory_id=memory.memory_id)
    if row is None:
        raise RuntimeError("a memory of the same snapshot is missing")
    number, kept = MEMORIES + row.number, set(before).intersection(after)
    gone, added = ([word for word in words if word not in kept] for words in (before, after))
    await remove_words(tx, number=number, words=gone, hash_key=row.hash_key)
    await add_words(tx, number=number, words=added, hash_key=row.hash_key)
    return len(after)


async def delete_memory(tx: Transaction, *, memory_id: str, etag: str, now: int) -> None:
    """Hides a memory, which is erased later. Raises MemoryNotFound, EtagMismatch."""
    await _require(tx, memory_id=memory_id, etag=etag, now=now)
    await hide_memory(tx, memory_id=memory_id, now=now)


async def expire_memory(tx: Transaction, *, memory_id: str, now: int) -> None:
    """Hides a memory that has expired, unless its life was prolonged."""
    if await tx.one(GET_EXPIRED, memory_id=memory_id, now=now) is not None:
        await hide_memory(tx, memory_id=memory_id, now=now)


async def list_expired_memories(tx: SystemTransaction, *, now: int, limit: int) -> list[tuple[str, str]]:
    """Returns vault and ID of memories that have expired, the first to expire first."""
    return [(row.vault_id, row.memory_id) for row in await tx.all(LIST_EXPIRED, now=now, limit=limit)]


async def use_memories(tx: Transaction, *, memory_ids: Sequence[str], now: int) -> None:
    """Records that memories were used at a time."""
    await tx.run(USE_MEMORIES, memory_ids=orjson.dumps(memory_ids).decode(), now=now)
