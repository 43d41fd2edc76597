"""Stores memories, one for each type and content."""

from collections.abc import Sequence
from dataclasses import replace

from metamorphd.errors import MemoryLimitExceeded, MemoryNotFound, MessageNotFound, QuotaViolation
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.memory import Memory, NewMemory, raised
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, Transaction, grows
from metamorphd.store.erasures import Resource, queue_erasure
from metamorphd.store.idempotency import GET_HASH_KEY, IdempotencyKey, claim_request
from metamorphd.store.memories.read import get_memory
from metamorphd.store.memories.rows import content_key, size_of, words_of_memory
from metamorphd.store.messages import get_message
from metamorphd.store.search.postings import MEMORIES, add_words
from metamorphd.store.sessions import encode_metadata, get_session
from metamorphd.store.storage import require_storage
from metamorphd.store.vaults import create_vault

FIND_CONTENT = """
SELECT memory_id, importance, expire_time FROM memories WHERE vault_id = :vault_id AND content_key = :content_key
"""
# Of two transactions that do this at once one is repeated, so the number of memories is exact.
NUMBER_MEMORY = """
UPDATE vaults SET last_memory_number = last_memory_number + 1
WHERE vault_id = :vault_id
RETURNING last_memory_number AS number, memory_count, hash_key
"""
CREATE_MEMORY = """
INSERT INTO memories (vault_id, memory_id, number, state, type, importance, path, content_key, creator, session_id,
    message_id, word_count, size, revision, create_time, update_time, last_use_time, expire_time, metadata, content)
VALUES (:vault_id, :memory_id, :number, 0, :type, :importance, :path, :content_key, :creator, :session_id,
    :message_id, :word_count, :size, 1, :now, :now, :now, :expire_time, :metadata, :content)
"""
REPEAT_MEMORY = """
UPDATE memories
SET importance = :importance, expire_time = :expire_time, state = 0, superseded_by = NULL, update_time = :now,
    revision = revision + 1
WHERE vault_id = :vault_id AND memory_id = :memory_id
"""
SUPERSEDE_MEMORY = """
UPDATE memories SET state = 1, superseded_by = :superseded_by
WHERE vault_id = :vault_id AND memory_id = :memory_id AND state >= 0 AND (expire_time IS NULL OR expire_time > :now)
"""
HIDE_MEMORY = """
UPDATE memories SET state = -1, content_key = NULL, path = NULL, expire_time = NULL, superseded_by = NULL
WHERE vault_id = :vault_id AND memory_id = :memory_id AND state >= 0
"""


@grows
async def create_memory(
    tx: Transaction,
    *,
    memory: NewMemory,
    memory_id: str,
    supersedes: Sequence[str],
    request: IdempotencyKey | None,
    hash_key: bytes,
    most_memories: int,
    storage_limit: int,
    now: int,
) -> tuple[Memory, bool]:
    """Stores a memory, or repeats the one of its type and content. Returns it, and whether it is new.

    A repeated request changes nothing. Memories that it supersedes are not searched from now on. Raises SessionNotFound
    and MessageNotFound for where it comes from, MemoryNotFound, MemoryLimitExceeded, StorageQuotaExceeded,
    RequestIdReused.
    """
    await create_vault(tx, hash_key=hash_key, now=now)
    key = await key_of(tx, memory)
    found = await find_repeated(tx, key=key, now=now)
    if request is not None:
        # It says which of the two it was.
        resource_id = memory_id if found is None else f"{found.memory_id}:{memory_id}"
        made = await claim_request(tx, request=request, resource_id=resource_id, now=now)
        if made != resource_id:
            earlier, _, repeated = made.partition(":")
            return await get_memory(tx, memory_id=earlier, now=now), not repeated
    memory = replace(memory, session_id=await _source(tx, memory))
    if found is None:
        await _store(tx, memory, memory_id, key, most_memories=most_memories, storage_limit=storage_limit, now=now)
    else:
        memory_id = found.memory_id
        await _repeat(tx, memory, found, now=now)
    for superseded in supersedes:
        if superseded != memory_id:
            await _supersede(tx, superseded, superseded_by=memory_id, now=now)
    return await get_memory(tx, memory_id=memory_id, now=now), found is None


async def key_of(tx: Transaction, memory: NewMemory) -> bytes:
    """Returns the key of a memory's content in the vault, which is there."""
    vault = await tx.one(GET_HASH_KEY)
    if vault is None:
        raise RuntimeError("a vault that was just made is missing")
    return content_key(vault.hash_key, type_=memory.type, path=memory.path, content=memory.content)


async def find_repeated(tx: Transaction, *, key: bytes, now: int) -> Row | None:
    """Returns ID, importance and expire_time of the memory with a key, or None. One that has expired gives it up."""
    found = await tx.one(FIND_CONTENT, content_key=key)
    if found is not None and found.expire_time is not None and found.expire_time <= now:
        await hide_memory(tx, memory_id=found.memory_id, now=now)
        return None
    return found


async def _source(tx: Transaction, memory: NewMemory) -> str:
    """Returns the session that a memory comes from, that of its message if it names none."""
    if memory.session_id:
        await get_session(tx, session_id=memory.session_id)
    if not memory.message_id:
        return memory.session_id
    message = await get_message(tx, message_id=memory.message_id)
    if memory.session_id not in ("", message.session_id):
        raise MessageNotFound(message_id=memory.message_id)
    return message.session_id


async def _store(
    tx: Transaction,
    memory: NewMemory,
    memory_id: str,
    key: bytes,
    *,
    most_memories: int,
    storage_limit: int,
    now: int,
) -> None:
    metadata = encode_metadata(memory.metadata)
    size = size_of(content=memory.content, metadata=metadata, path=memory.path)
    await require_storage(tx, added_bytes=size, default_limit=storage_limit)
    vault = await tx.one(NUMBER_MEMORY)
    if vault is None:
        raise RuntimeError("a vault that was just made is missing")
    if vault.memory_count >= most_memories:
        quota = QuotaViolation("memories", f"the vault has {vault.memory_count} memories of at most {most_memories}")
        raise MemoryLimitExceeded(limit=most_memories, quotas=[quota])
    words = words_of_memory(memory.content)
    await tx.run(
        CREATE_MEMORY,
        memory_id=memory_id,
        number=vault.number,
        type=memory.type,
        importance=memory.importance,
        path=memory.path,
        content_key=key,
        creator=tx.scope.actor.user_id,
        session_id=memory.session_id or None,
        message_id=memory.message_id or None,
        word_count=len(words),
        size=size,
        expire_time=memory.expire_time,
        metadata=metadata,
        content=memory.content,
        now=now,
    )
    await add_words(tx, number=MEMORIES + vault.number, words=words, hash_key=vault.hash_key)
    await append_memory_change(tx, memory_id=memory_id, verb=ChangeVerb.CREATED, now=now)


async def _repeat(tx: Transaction, memory: NewMemory, found: Row, *, now: int) -> None:
    ends = None
    if memory.expire_time is not None and found.expire_time is not None:
        ends = max(memory.expire_time, found.expire_time)
    await tx.run(
        REPEAT_MEMORY,
        memory_id=found.memory_id,
        importance=raised(found.importance, memory.importance),
        expire_time=ends,
        now=now,
    )
    await append_memory_change(tx, memory_id=found.memory_id, verb=ChangeVerb.UPDATED, now=now)


async def _supersede(tx: Transaction, memory_id: str, *, superseded_by: str, now: int) -> None:
    if not await tx.run(SUPERSEDE_MEMORY, memory_id=memory_id, superseded_by=superseded_by, now=now):
        raise MemoryNotFound(memory_id=memory_id)
    await append_memory_change(tx, memory_id=memory_id, verb=ChangeVerb.UPDATED, now=now)


async def hide_memory(tx: Transaction, *, memory_id: str, now: int) -> None:
    """Hides a memory, whose words and content are erased in steps."""
    if await tx.run(HIDE_MEMORY, memory_id=memory_id):
        await queue_erasure(tx, resource=Resource.MEMORY, resource_id=memory_id, now=now)
        await append_memory_change(tx, memory_id=memory_id, verb=ChangeVerb.DELETED, now=now)


async def append_memory_change(tx: Transaction, *, memory_id: str, verb: ChangeVerb, now: int) -> None:
    """Appends a change of a memory to the vault's log."""
    await append_change(tx, resource=ChangedResource.MEMORY, resource_id=memory_id, verb=verb, now=now)
