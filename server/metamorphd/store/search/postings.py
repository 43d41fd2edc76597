"""Postings: by vault, block of 1,024 messages and word, the messages of the block that have the word.

Beside its words, a message is found by pairs of neighbours in scripts without spaces, which are stored like words.

By group of 256 blocks and word, the blocks of the group that have the word are stored likewise, in the same table, so
that a search looks into no others.

Messages with words have numbers, newer ones higher. A word is stored as a hash that is keyed by the vault, so the index
holds no text, and nothing that is the same in two vaults. The vault and the block lead the key: what a message adds is
on few pages, and the commonest words of other vaults are elsewhere.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from metamorphd.store.database import Transaction, grows
from metamorphd.store.search.earlier import earlier_words_of
from metamorphd.store.search.words import with_pairs, words_of

BLOCK_BITS = 10
GROUP_BITS = 8
# Added to the numbers of groups, so that they are where no block is: those of a vault with 10^12 messages would be.
# With blocks below 0, groups begin a little lower.
GROUPS = 1 << 30
# Added to the numbers of memories, which are in the same table: their blocks are where none of messages is.
MEMORIES = 1 << 50
TERM_BYTES = 8
OFFSET_BYTES = 2
# A long message is indexed by its beginning when it is stored, and then in steps: 12,000 new words take 170 ms.
CHARACTERS_AT_ONCE = 8_192
WORDS_AT_ONCE = 512
# How the words of a message were made, by which it must be removed. Messages of the first are indexed anew in steps.
EARLIER_FOLDING, FOLDING = 1, 2

NUMBER_UP = """
UPDATE vaults SET last_message_number = last_message_number + 1
WHERE vault_id = :vault_id
RETURNING last_message_number AS number, hash_key
"""
# Before the first one, for messages that were stored before there were numbers.
NUMBER_DOWN = """
UPDATE vaults SET first_message_number = first_message_number - 1
WHERE vault_id = :vault_id
RETURNING first_message_number AS number, hash_key
"""
CREATE_INDEXED = """
INSERT INTO indexed_messages (vault_id, number, message_id, word_count, pending, folding)
VALUES (:vault_id, :number, :message_id, :word_count, :pending, :folding)
"""
GET_INDEXED = """
SELECT number, word_count, pending, folding, hash_key
FROM indexed_messages CROSS JOIN vaults
WHERE indexed_messages.vault_id = :vault_id AND message_id = :message_id AND vaults.vault_id = :vault_id
"""
COUNT_WORDS = """
UPDATE indexed_messages SET word_count = :word_count, pending = :pending, folding = :folding
WHERE vault_id = :vault_id AND number = :number
"""
DELETE_INDEXED = "DELETE FROM indexed_messages WHERE vault_id = :vault_id AND number = :number"
GET_OFFSETS = "SELECT offsets FROM postings WHERE vault_id = :vault_id AND block = :block AND term = :term"
# These are for all words of a message, as JSON arrays of hexadecimal numbers: after each statement a thread may have to
# wait for the GIL (decision 11).
ADD_OFFSET = """
INSERT INTO postings (vault_id, block, term, offsets)
SELECT :vault_id, :block, unhex(value), :place FROM json_each(:terms) WHERE true
ON CONFLICT (vault_id, block, term) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)
"""
# The block itself, for the terms that no other message of it has.
ADD_BLOCK = """
INSERT INTO postings (vault_id, block, term, offsets)
SELECT :vault_id, :group, term, :place
FROM json_each(:terms) CROSS JOIN postings
WHERE vault_id = :vault_id AND block = :block AND term = unhex(value) AND length(offsets) = :one
ON CONFLICT (vault_id, block, term) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)
"""
# The same for many messages of a block: JSON arrays of [term, offsets].
ADD_LISTS = """
INSERT INTO postings (vault_id, block, term, offsets)
SELECT :vault_id, :block, unhex(value ->> 0), unhex(value ->> 1) FROM jsonb_each(:lists) WHERE true
ON CONFLICT (vault_id, block, term) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)
"""
ADD_BLOCK_OF_LISTS = """
INSERT INTO postings (vault_id, block, term, offsets)
SELECT :vault_id, :group, term, :place
FROM jsonb_each(:lists) CROSS JOIN postings
WHERE vault_id = :vault_id AND block = :block AND term = unhex(value ->> 0)
    AND 2 * length(offsets) = length(value ->> 1)
ON CONFLICT (vault_id, block, term) DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)
"""
# In one row, as an array of [term, offsets].
LIST_OFFSETS = """
SELECT json_group_array(json_array(value, hex(offsets))) AS lists
FROM json_each(:terms) CROSS JOIN postings
WHERE vault_id = :vault_id AND block = :block AND term = unhex(value)
"""
PUT_OFFSETS = """
INSERT INTO postings (vault_id, block, term, offsets)
SELECT :vault_id, :block, unhex(value ->> 0), unhex(value ->> 1) FROM json_each(:lists) WHERE true
ON CONFLICT (vault_id, block, term) DO UPDATE SET offsets = excluded.offsets
"""
DELETE_OFFSETS = """
DELETE FROM postings
WHERE vault_id = :vault_id AND block = :block AND term IN (SELECT unhex(value) FROM json_each(:terms))
"""


def session_word(session_id: str) -> str:
    """Returns the word that all messages of a session have. It contains a character that no other word does."""
    return f"@{session_id}"


def indexed_words(session_id: str, text: str, *, folding: int) -> list[str]:
    """Returns what a message is found by: each word and pair once, in order, after its session."""
    return _indexed(session_id, earlier_words_of(text) if folding == EARLIER_FOLDING else with_pairs(words_of(text)))


def _indexed(session_id: str, words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((session_word(session_id), *words)))


def hasher(hash_key: bytes) -> Callable[[str], bytes]:
    """Returns the function from a word to its term, by which it is stored in the vault with this key."""
    keyed = blake2b(key=hash_key, digest_size=TERM_BYTES, person=b"search")

    def term(word: str) -> bytes:
        copy = keyed.copy()
        copy.update(word.encode())
        return copy.digest()

    return term


def unpack(offsets: bytes) -> tuple[int, ...]:
    """Returns the offsets of a list, in no order. They are stored in two bytes each, big-endian."""
    return struct.unpack(f">{len(offsets) // 2}H", offsets)


def place_of(offset: int, offsets: bytes) -> int:
    """Returns the byte at which an offset begins in a list, or -1. Of a few offsets this is faster than to unpack."""
    place = packed(offset)
    at = offsets.find(place)
    while at % 2 == 1 and at >= 0:
        at = offsets.find(place, at + 1)
    return at


async def add_words(tx: Transaction, *, number: int, words: Sequence[str], hash_key: bytes) -> None:
    """Adds a message to the postings of words, which it is not in yet."""
    terms = _json([hashed.hex() for hashed in map(hasher(hash_key), words)])
    block, offset = split(number, BLOCK_BITS)
    await tx.run(ADD_OFFSET, block=block, terms=terms, place=packed(offset))
    group, place = split(block, GROUP_BITS)
    await tx.run(ADD_BLOCK, block=block, group=GROUPS + group, terms=terms, place=packed(place), one=OFFSET_BYTES)


@grows
async def add_lists(tx: Transaction, *, block: int, lists: str) -> None:
    """Adds messages of a block to the postings of words, which they are not in yet.

    `lists` is a JSON array of [term, offsets], both hexadecimal, each term once.
    """
    await tx.run(ADD_LISTS, block=block, lists=lists)
    group, place = split(block, GROUP_BITS)
    await tx.run(ADD_BLOCK_OF_LISTS, block=block, group=GROUPS + group, lists=lists, place=packed(place))


async def remove_words(tx: Transaction, *, number: int, words: Sequence[str], hash_key: bytes) -> None:
    """Removes a message from the postings of words."""
    terms = [hashed.hex() for hashed in map(hasher(hash_key), words)]
    block, offset = split(number, BLOCK_BITS)
    group, place = split(block, GROUP_BITS)
    emptied = await _remove_offset(tx, block, terms, offset)
    await _remove_offset(tx, GROUPS + group, emptied, place)


async def _remove_offset(tx: Transaction, block: int, terms: Sequence[str], offset: int) -> list[str]:
    """Removes an offset from the lists of terms, and returns the terms whose last one it was."""
    if not terms:
        return []
    row = await tx.one(LIST_OFFSETS, block=block, terms=_json(terms))
    changed, emptied = [], []
    for term, stored in orjson.loads(row.lists) if row else ():
        offsets = bytes.fromhex(stored)
        at = place_of(offset, offsets)
        if at < 0:
            continue
        left = offsets[:at] + offsets[at + OFFSET_BYTES :]
        if left:
            changed.append((term, left.hex()))
        else:
            emptied.append(term)
    if changed:
        await tx.run(PUT_OFFSETS, block=block, lists=_json(changed))
    if emptied:
        await tx.run(DELETE_OFFSETS, block=block, terms=_json(emptied))
    return emptied


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def split(number: int, bits: int) -> tuple[int, int]:
    """Returns the block of a number, which is negative before the first one, and its offset there."""
    return number >> bits, number & (1 << bits) - 1


def packed(offset: int) -> bytes:
    """Returns an offset as lists have it."""
    return struct.pack(">H", offset)


@dataclass(frozen=True, slots=True)
class FirstWords:
    """The words by which a message is indexed when it is stored. `pending` if others follow."""

    words: Sequence[str]
    pending: bool


def first_words(session_id: str, text: str) -> FirstWords | None:
    """Returns the first words of a message by its text, or None if it has none at all."""
    beginning = text[:CHARACTERS_AT_ONCE]
    words = words_of(beginning)
    if len(beginning) < len(text):
        # It may be cut.
        del words[-1:]
    if not words and beginning == text:
        return None
    every = _indexed(session_id, with_pairs(words))
    now = every[:WORDS_AT_ONCE]
    return FirstWords(now, pending=len(now) < len(every) or len(beginning) < len(text))


async def index_message(tx: Transaction, *, session_id: str, message_id: str, text: str, earlier: bool = False) -> None:
    """Indexes a message by its first words, and leaves further ones to `add_pending_words`.

    It is the newest message that is indexed, or with `earlier` the oldest. One without words is not indexed.
    """
    first = first_words(session_id, text)
    if first is None:
        return
    row = await tx.one(NUMBER_DOWN if earlier else NUMBER_UP)
    if row is None:
        raise RuntimeError("a vault with messages is missing")
    await add_words(tx, number=row.number, words=first.words, hash_key=row.hash_key)
    await tx.run(
        CREATE_INDEXED,
        number=row.number,
        message_id=message_id,
        word_count=len(first.words),
        pending=first.pending,
        folding=FOLDING,
    )


@dataclass(frozen=True, slots=True)
class LastWords:
    """The last of the `word_count` words by which a message is indexed. `preceding` is the number of the others."""

    message_id: str
    folding: int
    word_count: int
    words: Sequence[str]
    preceding: int


async def read_last_words(
    tx: Transaction, *, session_id: str, message_id: str, text: str, limit: int
) -> LastWords | None:
    """Returns at most `limit` words of a message that was indexed by `text`, or None if it is not indexed."""
    row = await tx.one(GET_INDEXED, message_id=message_id)
    if row is None:
        return None
    preceding = max(0, row.word_count - limit)
    words = indexed_words(session_id, text, folding=row.folding)[preceding : row.word_count]
    return LastWords(message_id, row.folding, row.word_count, words, preceding)


async def remove_last_words(tx: Transaction, *, last: LastWords) -> bool:
    """Removes words from the index, unless it was changed since they were read. Returns whether others are left."""
    row = await tx.one(GET_INDEXED, message_id=last.message_id)
    if row is None:
        return False
    if (row.folding, row.word_count) != (last.folding, last.word_count):
        return True
    await remove_words(tx, number=row.number, words=last.words, hash_key=row.hash_key)
    if last.preceding:
        await tx.run(COUNT_WORDS, number=row.number, word_count=last.preceding, pending=False, folding=row.folding)
    else:
        await tx.run(DELETE_INDEXED, number=row.number)
    return bool(last.preceding)
