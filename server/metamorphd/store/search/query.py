"""Searches messages by their text."""

import re
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from metamorphd.models.content import text_of
from metamorphd.models.message import MessageMatch, Role
from metamorphd.models.page import Page
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Row, Transaction, search_read
from metamorphd.store.search.excerpts import excerpt
from metamorphd.store.search.postings import BLOCK_BITS, hasher, session_word, unpack
from metamorphd.store.search.words import SEARCHED_CHARACTERS, words_of
from metamorphd.store.sessions import get_session

# Words that follow each other in a text.
Phrase = tuple[str, ...]

MOST_PHRASES = 16
# A NUL is as good as a space.
PHRASES = re.compile(r'"([^"\x00]*)"|([^\s"\x00]+)')

# A unit of effort takes 5 to 10 µs. A page takes at most this many, …
EFFORT = 10_000
# … one for a list of offsets that is looked for, and for so many in it, …
OFFSETS_A_UNIT = 50
# … and these for a message that is read, with one for so many characters of its content, and of those searched.
UNITS_A_MESSAGE = 8
STORED_A_UNIT = 4_000
SEARCHED_A_UNIT = 100
# Other alphabets take five times as long.
UNICODE_FACTOR = 5
# Blocks are read in portions, larger ones as long as little is found.
MOST_BLOCKS = 64
LISTS_AT_ONCE = 512

GET_NUMBERS = """
SELECT first_message_number, last_message_number, hash_key FROM vaults WHERE vault_id = :vault_id
"""
# The lowest and the highest number of a session, from its first and its last message that is indexed.
GET_SESSION_NUMBERS = """
SELECT
    (SELECT number FROM messages CROSS JOIN indexed_messages
     WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id
         AND indexed_messages.vault_id = :vault_id AND indexed_messages.message_id = messages.message_id
     ORDER BY ordinal LIMIT 1) AS first_message_number,
    (SELECT number FROM messages CROSS JOIN indexed_messages
     WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id
         AND indexed_messages.vault_id = :vault_id AND indexed_messages.message_id = messages.message_id
     ORDER BY ordinal DESC LIMIT 1) AS last_message_number
"""
LIST_OFFSETS = """
WITH RECURSIVE blocks (block) AS (
    SELECT CAST(:newest AS INTEGER)
    UNION ALL
    SELECT block - 1 FROM blocks WHERE block > :oldest
)
SELECT postings.block, offsets
FROM blocks CROSS JOIN postings
WHERE postings.vault_id = :vault_id AND postings.block = blocks.block AND term = :term
"""
GET_CANDIDATE = """
SELECT messages.message_id, messages.session_id, role, content, messages.create_time
FROM indexed_messages CROSS JOIN messages CROSS JOIN sessions
WHERE indexed_messages.vault_id = :vault_id AND number = :number
    AND messages.vault_id = :vault_id AND messages.message_id = indexed_messages.message_id
    AND messages.delete_time IS NULL
    AND sessions.vault_id = :vault_id AND sessions.session_id = messages.session_id AND sessions.delete_time IS NULL
"""


@dataclass(slots=True)
class Effort:
    """The work that is left to one page of a search."""

    left: int


def phrases_of(query: str) -> tuple[Phrase, ...]:
    """Returns the words and quoted phrases of a query, each once, without those that have no letter or digit."""
    found = (tuple(words_of(quoted or word)) for quoted, word in PHRASES.findall(query))
    return tuple(phrase for phrase in dict.fromkeys(found) if phrase)


@search_read
async def search_messages(
    tx: Transaction,
    *,
    phrases: Sequence[Phrase],
    session_id: str | None,
    after: tuple[int | str, ...] | None,
    page_size: int,
) -> Page[MessageMatch]:
    """Returns messages with all of the phrases, which `phrases_of` makes, newest first. There must be a phrase.

    `after` is (the number of the last message that was looked at). A page whose work passes a bound ends there, so it
    may be short, or even empty, without being the last. Raises SessionNotFound.
    """
    if session_id is not None:
        await get_session(tx, session_id=session_id)
    vault = await tx.one(GET_NUMBERS)
    if vault is None:
        return Page((), None)
    within = vault if session_id is None else await tx.one(GET_SESSION_NUMBERS, session_id=session_id)
    if within is None or within.first_message_number is None:
        return Page((), None)
    oldest, newest = within.first_message_number, within.last_message_number
    if after:
        newest = min(int(after[0]) - 1, newest)
    words = {word for phrase in phrases for word in phrase}
    # A session's word is looked for first, because few blocks have it.
    names = [*([] if session_id is None else [session_word(session_id)]), *sorted(words)]
    effort, matches = Effort(EFFORT), list[MessageMatch]()
    blocks = _blocks(tx, list(map(hasher(vault.hash_key), names)), newest=newest, oldest=oldest, effort=effort)
    async for numbers, reached in blocks:
        for number in numbers:
            found = await _find(tx, number=number, phrases=phrases, effort=effort)
            if found is not None and len(matches) == page_size:
                return Page(tuple(matches), (number + 1,))
            if found is not None:
                matches.append(_match(*found, words))
            if effort.left <= 0:
                return Page(tuple(matches), (number,))
        if effort.left <= 0 and reached > oldest:
            return Page(tuple(matches), (reached,))
    return Page(tuple(matches), None)


async def _blocks(
    tx: Transaction, terms: list[bytes], *, newest: int, oldest: int, effort: Effort
) -> AsyncIterator[tuple[list[int], int]]:
    """Yields the numbers up to `newest` of messages with all terms, newest first, by portions of blocks.

    With them comes the lowest number that they could have had.
    """
    first, last = oldest >> BLOCK_BITS, newest >> BLOCK_BITS
    # How often each was found: the rarest is looked for first, and the others where it is.
    counts = dict.fromkeys(terms, 0)
    portion = 1
    while last >= first:
        begin = max(first, last - portion + 1)
        found = await _intersect(tx, sorted(terms, key=counts.__getitem__), last, begin, counts=counts, effort=effort)
        numbers = (block << BLOCK_BITS | offset for block, offsets in found.items() for offset in offsets)
        yield sorted((number for number in numbers if number <= newest), reverse=True), begin << BLOCK_BITS
        last = begin - 1
        portion = min(portion * 2, MOST_BLOCKS, max(1, LISTS_AT_ONCE // len(terms)))


async def _intersect(
    tx: Transaction, terms: list[bytes], newest: int, oldest: int, *, counts: dict[bytes, int], effort: Effort
) -> dict[int, set[int]]:
    """Returns the offsets that all terms have, by block."""
    found: dict[int, set[int]] | None = None
    for term in terms:
        rows = await tx.all(LIST_OFFSETS, term=term, newest=newest, oldest=oldest)
        size = sum(len(row.offsets) for row in rows) // 2
        counts[term] += size
        effort.left -= newest - oldest + 1 + size // OFFSETS_A_UNIT
        lists = ((row.block, unpack(row.offsets)) for row in rows)
        if found is None:
            found = {block: set(offsets) for block, offsets in lists}
        else:
            common = ((block, found[block].intersection(offsets)) for block, offsets in lists if block in found)
            found = {block: offsets for block, offsets in common if offsets}
        if not found:
            return {}
        newest, oldest = max(found), min(found)
    return found or {}


async def _find(tx: Transaction, *, number: int, phrases: Sequence[Phrase], effort: Effort) -> tuple[Row, str] | None:
    """Returns a message and its text, unless it is deleted or lacks a phrase whose words it has."""
    row = await tx.one(GET_CANDIDATE, number=number)
    effort.left -= UNITS_A_MESSAGE
    if row is None:
        return None
    text = text_of(decode_content(row.content))[:SEARCHED_CHARACTERS]
    effort.left -= len(row.content) // STORED_A_UNIT
    effort.left -= len(text) * (1 if text.isascii() else UNICODE_FACTOR) // SEARCHED_A_UNIT
    longer = [phrase for phrase in phrases if len(phrase) > 1]
    if longer:
        # Words have no spaces.
        joined = f" {' '.join(words_of(text))} "
        if not all(f" {' '.join(phrase)} " in joined for phrase in longer):
            return None
    return row, text


def _match(row: Row, text: str, words: AbstractSet[str]) -> MessageMatch:
    snippet, highlights = excerpt(text, words)
    return MessageMatch(
        message_id=row.message_id,
        session_id=row.session_id,
        role=Role(row.role),
        create_time=row.create_time,
        snippet=snippet,
        highlights=highlights,
    )
