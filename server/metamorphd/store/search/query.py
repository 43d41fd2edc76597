"""Searches messages by their text."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from metamorphd.models.content import text_of
from metamorphd.models.message import MessageMatch, Role
from metamorphd.models.page import Page
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Row, Transaction, search_read
from metamorphd.store.search.excerpts import excerpt
from metamorphd.store.search.postings import (
    BLOCK_BITS,
    GET_OFFSETS,
    GROUP_BITS,
    GROUPS,
    OFFSET_BYTES,
    hasher,
    place_of,
    session_word,
    unpack,
)
from metamorphd.store.search.words import SEARCHED_CHARACTERS, Phrase, joined, rarest_of, words_of
from metamorphd.store.sessions import get_session

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
# So few offsets are looked for in another list, which is not unpacked.
FEW_OFFSETS = 8

GET_NUMBERS = """
SELECT first_message_number, last_message_number, hash_key,
    EXISTS (SELECT 1 FROM indexed_messages WHERE vault_id = :vault_id AND folding = 1) AS refolding
FROM vaults WHERE vault_id = :vault_id
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
    # Messages of the earlier folding are not indexed by pairs.
    by_phrase = {phrase: phrase if vault.refolding else rarest_of(phrase) for phrase in phrases}
    words = {word for found in by_phrase.values() for word in found}
    # What is one word, or one pair, needs no comparison.
    longer = [phrase for phrase, found in by_phrase.items() if len(found) > 1]
    # A session's word is looked for first, because few blocks have it.
    names = [*([] if session_id is None else [session_word(session_id)]), *sorted(words)]
    terms = list(map(hasher(vault.hash_key), names))
    effort, matches = Effort(EFFORT), list[MessageMatch]()
    async for numbers, reached in _candidates(tx, terms, newest=newest, oldest=oldest, effort=effort):
        for number in numbers:
            found = await _find(tx, number=number, phrases=longer, effort=effort)
            if found is not None and len(matches) == page_size:
                return Page(tuple(matches), (number + 1,))
            if found is not None:
                matches.append(_match(*found, phrases))
            if effort.left <= 0:
                return Page(tuple(matches), (number,))
        if effort.left <= 0 and reached > oldest:
            return Page(tuple(matches), (reached,))
    return Page(tuple(matches), None)


async def _candidates(
    tx: Transaction, terms: list[bytes], *, newest: int, oldest: int, effort: Effort
) -> AsyncIterator[tuple[list[int], int]]:
    """Yields the numbers up to `newest` of messages with all terms, newest first.

    They come by blocks that have all terms, and none at the end of a group, each time with the lowest number that they
    could have had.
    """
    first, last = (number >> BLOCK_BITS + GROUP_BITS for number in (oldest, newest))
    # How often each was found: the rarest is looked for first, and the others where it is.
    counts = dict.fromkeys(terms, 0)
    for group in range(last, first - 1, -1):
        for place in await _common_offsets(tx, GROUPS + group, counts, effort):
            block = group << GROUP_BITS | place
            if block <= newest >> BLOCK_BITS:
                offsets = await _common_offsets(tx, block, counts, effort)
                numbers = [block << BLOCK_BITS | offset for offset in offsets]
                yield [number for number in numbers if number <= newest], block << BLOCK_BITS
        yield [], group << GROUP_BITS + BLOCK_BITS


async def _common_offsets(tx: Transaction, block: int, counts: dict[bytes, int], effort: Effort) -> list[int]:
    """Returns the offsets that all terms have in a block, or in a group, the highest first. Adds to the counts."""
    found: set[int] | None = None
    for term in sorted(counts, key=counts.__getitem__):
        row = await tx.one(GET_OFFSETS, block=block, term=term)
        size = 0 if row is None else len(row.offsets) // OFFSET_BYTES
        effort.left -= 1 + size // OFFSETS_A_UNIT
        if row is None:
            return []
        counts[term] += size
        if found is not None and len(found) <= FEW_OFFSETS:
            found = {offset for offset in found if place_of(offset, row.offsets) >= 0}
        else:
            offsets = unpack(row.offsets)
            found = set(offsets) if found is None else found.intersection(offsets)
        if not found:
            return []
    return sorted(found or (), reverse=True)


async def _find(tx: Transaction, *, number: int, phrases: Sequence[Phrase], effort: Effort) -> tuple[Row, str] | None:
    """Returns a message and its text, unless it is deleted or lacks a phrase whose words it has."""
    row = await tx.one(GET_CANDIDATE, number=number)
    effort.left -= UNITS_A_MESSAGE
    if row is None:
        return None
    text = text_of(decode_content(row.content))[:SEARCHED_CHARACTERS]
    effort.left -= len(row.content) // STORED_A_UNIT
    effort.left -= len(text) * (1 if text.isascii() else UNICODE_FACTOR) // SEARCHED_A_UNIT
    if phrases:
        words = joined(words_of(text))
        if not all(joined(phrase) in words for phrase in phrases):
            return None
    return row, text


def _match(row: Row, text: str, phrases: Sequence[Phrase]) -> MessageMatch:
    snippet, highlights = excerpt(text, phrases)
    return MessageMatch(
        message_id=row.message_id,
        session_id=row.session_id,
        role=Role(row.role),
        create_time=row.create_time,
        snippet=snippet,
        highlights=highlights,
    )
