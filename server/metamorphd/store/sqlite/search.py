"""The full-text index: one FTS5 table, which holds the texts of all vaults.

Each statement names the one vault twice: in the match, so that the entries of others cost nothing, and as a condition.
A row is found by its ids, which are indexed too: as plain columns they would have all rows read.

Relevance depends on the message alone. The usual BM25 weighs a word by how rare it is among all texts, which would show
one tenant what others write about.
"""

from collections.abc import Sequence

import apsw

from metamorphd.store.database import Transaction
from metamorphd.store.search.index import IndexedText, SearchIndex

CREATE_TEXT = """
INSERT INTO message_search (vault_id, session_id, message_id, text)
VALUES (:vault_id, :session_id, :message_id, :text)
"""
DELETE_MESSAGE = """
DELETE FROM message_search
WHERE vault_id = :vault_id AND message_id = :message_id
    AND message_search MATCH 'message_id : "' || :message_id || '"'
"""
DELETE_SESSION = """
DELETE FROM message_search
WHERE vault_id = :vault_id AND session_id = :session_id
    AND message_search MATCH 'session_id : "' || :session_id || '"'
"""
# The texts of a page only are read: ranking needs none.
QUERY = """
WITH page AS (
    SELECT rowid AS place, relevance(message_search) AS fit FROM message_search
    WHERE vault_id = :vault_id AND (:session_id IS NULL OR session_id = :session_id)
        AND message_search MATCH 'vault_id : "' || :vault_id || '" AND text : (' || :words || ')'
    ORDER BY fit DESC, place DESC
    LIMIT :limit OFFSET :offset
)
SELECT message_search.message_id, message_search.text
FROM page
JOIN message_search ON message_search.rowid = page.place AND message_search.vault_id = :vault_id
    AND message_search MATCH 'vault_id : "' || :vault_id || '" AND text : (' || :words || ')'
ORDER BY page.fit DESC, page.place DESC
"""

TEXT_COLUMN = 3
# BM25's own (Robertson and Zaragoza, 2009): how fast repetition stops counting, and how much length does.
SATURATION, LENGTH_WEIGHT = 1.2, 0.75
TYPICAL_WORDS = 100


class Fts5Index(SearchIndex):
    """The index as one transaction sees it."""

    __slots__ = ("_tx",)

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def create(self, *, session_id: str, message_id: str, text: str) -> None:
        await self._tx.run(CREATE_TEXT, session_id=session_id, message_id=message_id, text=text)

    async def delete_message(self, *, message_id: str) -> None:
        await self._tx.run(DELETE_MESSAGE, message_id=message_id)

    async def delete_session(self, *, session_id: str) -> None:
        await self._tx.run(DELETE_SESSION, session_id=session_id)

    async def query(
        self, *, phrases: Sequence[str], session_id: str | None, offset: int, limit: int
    ) -> list[IndexedText]:
        # Quoted, so that nothing in them is an operator.
        words = " AND ".join(f'"{phrase}"' for phrase in phrases)
        rows = await self._tx.all(QUERY, words=words, session_id=session_id, offset=offset, limit=limit)
        return [IndexedText(row.message_id, row.text) for row in rows]


def register(connection: apsw.Connection) -> None:
    """Gives a connection the function `relevance(message_search)`."""
    connection.register_fts5_function("relevance", _relevance)


def _relevance(index: apsw.FTS5ExtensionApi, *_: object) -> float:
    """Returns BM25 without the rarity of words, which depends on other texts. More is better."""
    length = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * index.column_size(TEXT_COLUMN) / TYPICAL_WORDS
    counts = (len(index.phrase_column_offsets(phrase, TEXT_COLUMN)) for phrase in range(index.phrase_count))
    return sum(count * (SATURATION + 1) / (count + SATURATION * length) for count in counts)
