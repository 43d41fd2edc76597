"""Finding messages by their text.

The index holds the texts of all vaults, and each statement names the one vault twice: in the match, so that others'
entries cost nothing, and as a condition. What fits best is told by the message alone (see `sqlite.relevance`): the
usual BM25 weighs a word by how rare it is among all texts, which would tell one tenant what others write of.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from metamorphd.models.message import MessageMatch, Role
from metamorphd.models.page import Page
from metamorphd.store.database import Row, Transaction
from metamorphd.store.search.excerpts import WORDS, excerpt, fold
from metamorphd.store.sessions import get_session

MOST_PHRASES = 16
# The index's query ends at a NUL, which is as good as a space.
PHRASES = re.compile(r'"([^"\x00]*)"|([^\s"\x00]+)')

SEARCH_MESSAGES = """
WITH page AS (
    SELECT rowid AS place, relevance(message_search) AS fit FROM message_search
    WHERE vault_id = :vault_id AND (:session_id IS NULL OR session_id = :session_id)
        AND message_search MATCH 'vault_id : "' || :vault_id || '" AND text : (' || :words || ')'
    ORDER BY fit DESC, place DESC
    LIMIT :page_size + 1 OFFSET :offset
)
SELECT messages.message_id, messages.session_id, role, create_time,
    message_search.text, (SELECT COUNT(*) FROM page) AS candidate_count
FROM page
JOIN message_search ON message_search.rowid = page.place AND message_search.vault_id = :vault_id
    AND message_search MATCH 'vault_id : "' || :vault_id || '" AND text : (' || :words || ')'
JOIN messages ON messages.vault_id = :vault_id AND messages.message_id = message_search.message_id
ORDER BY page.fit DESC, page.place DESC
LIMIT :page_size
"""


def phrases_of(query: str) -> tuple[str, ...]:
    """The words and the quoted phrases of a query, each once, those without a letter or a digit left out."""
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
    """Messages with all of the phrases, which `phrases_of` makes; there must be one.

    Best first; `after` is (how many were shown). Raises SessionNotFound.
    """
    if session_id is not None:
        await get_session(tx, session_id=session_id)
    offset = int(after[0]) if after else 0
    # Quoted, so that nothing in them is an operator.
    words = " AND ".join(f'"{phrase}"' for phrase in phrases)
    rows = await tx.all(SEARCH_MESSAGES, words=words, session_id=session_id, page_size=page_size, offset=offset)
    more = bool(rows) and rows[0].candidate_count > len(rows)
    wanted = frozenset(fold(word) for phrase in phrases for word in WORDS.findall(phrase))
    return Page(tuple(_match(row, wanted) for row in rows), (offset + len(rows),) if more else None)


def _match(row: Row, wanted: AbstractSet[str]) -> MessageMatch:
    snippet, highlights = excerpt(row.text, wanted)
    return MessageMatch(
        message_id=row.message_id,
        session_id=row.session_id,
        role=Role(row.role),
        create_time=row.create_time,
        snippet=snippet,
        highlights=highlights,
    )
