"""Searches messages by their text."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from metamorphd.models.message import MessageMatch, Role
from metamorphd.models.page import Page
from metamorphd.store.database import Transaction
from metamorphd.store.search.excerpts import WORDS, excerpt, fold
from metamorphd.store.search.index import IndexedText
from metamorphd.store.sessions import get_session

MOST_PHRASES = 16
# A NUL is as good as a space; SQLite's queries would end at it.
PHRASES = re.compile(r'"([^"\x00]*)"|([^\s"\x00]+)')

GET_FOUND = "SELECT session_id, role, create_time FROM messages WHERE vault_id = :vault_id AND message_id = :message_id"


def phrases_of(query: str) -> tuple[str, ...]:
    """Returns the words and quoted phrases of a query, each once, without those that have no letter or digit."""
    found = dict.fromkeys(quoted or word for quoted, word in PHRASES.findall(query))
    return tuple(phrase for phrase in found if any(character.isalnum() for character in phrase))


async def search_messages(
    tx: Transaction,
    *,
    phrases: Sequence[str],
    session_id: str | None,
    after: tuple[int | str, ...] | None,
    page_size: int,
) -> Page[MessageMatch]:
    """Returns messages with all of the phrases, which `phrases_of` makes; there must be one.

    Best first; `after` is (how many were shown). Raises SessionNotFound.
    """
    if session_id is not None:
        await get_session(tx, session_id=session_id)
    offset = int(after[0]) if after else 0
    texts = await tx.search.query(phrases=phrases, session_id=session_id, offset=offset, limit=page_size + 1)
    wanted = frozenset(fold(word) for phrase in phrases for word in WORDS.findall(phrase))
    matches = [await _match(tx, text, wanted) for text in texts[:page_size]]
    return Page(tuple(matches), (offset + page_size,) if len(texts) > page_size else None)


async def _match(tx: Transaction, found: IndexedText, wanted: AbstractSet[str]) -> MessageMatch:
    message = await tx.one(GET_FOUND, message_id=found.message_id)
    if message is None:
        raise RuntimeError("a message that is in the index is missing")
    snippet, highlights = excerpt(found.text, wanted)
    return MessageMatch(
        message_id=found.message_id,
        session_id=message.session_id,
        role=Role(message.role),
        create_time=message.create_time,
        snippet=snippet,
        highlights=highlights,
    )
