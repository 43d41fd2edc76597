"""A memory's row: its columns, its key and its words."""

import unicodedata
from hashlib import blake2b

import orjson

from metamorphd.models.memory import Memory, MemoryType
from metamorphd.store.database import Row
from metamorphd.store.search.words import folded, with_pairs, words_of

COLUMNS = """
    memory_id, type, content, importance, metadata, expire_time, session_id, message_id, path, superseded_by, creator,
    create_time, update_time, last_use_time, revision
"""
# The words of a memory by which it is found. So many new ones take the writer about 3 ms.
INDEXED_WORDS = 256
KEY_BYTES = 16


def memory_of(row: Row) -> Memory:
    """Returns the memory that a row of `COLUMNS` holds."""
    return Memory(
        memory_id=row.memory_id,
        type=MemoryType(row.type),
        content=row.content,
        importance=row.importance,
        metadata=orjson.loads(row.metadata),
        expire_time=row.expire_time,
        session_id=row.session_id,
        message_id=row.message_id,
        path=row.path,
        superseded_by=row.superseded_by,
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
        last_use_time=row.last_use_time,
        revision=row.revision,
    )


def words_of_memory(content: str) -> list[str]:
    """Returns the words and pairs that a memory is found by, each once, in order."""
    return list(dict.fromkeys(with_pairs(words_of(content))))[:INDEXED_WORDS]


def content_key(hash_key: bytes, *, type_: MemoryType, path: str | None, content: str) -> bytes:
    """Returns what two memories of a vault have in common only if one is a repetition of the other."""
    parts = (type_, path or "", *_normalised(content))
    return blake2b(orjson.dumps(parts), key=hash_key, digest_size=KEY_BYTES, person=b"memory").digest()


def _normalised(content: str) -> tuple[str, str]:
    """Returns what contents that say the same have in common: the folding of search, and their symbols.

    The folding has spaces for symbols beyond ASCII, but prices in € and £ are different, and so are emoji.
    """
    symbols = (character for character in content if not character.isascii())
    return " ".join(folded(content).split()).rstrip(". "), "".join(
        symbol for symbol in symbols if unicodedata.category(symbol)[0] == "S"
    )


def size_of(*, content: str, metadata: str, path: str | None) -> int:
    """Returns the bytes that are counted for a memory."""
    return len(content.encode()) + len(metadata.encode()) + len((path or "").encode())
