"""The index by which messages are found.

It holds the texts of all vaults. A row is found by its ids, which are indexed too: as a plain column they would have
all rows read.
"""

from metamorphd.store.database import Transaction

# A message is searched by its beginning: what one costs to search is bounded then, and nobody looks for more.
SEARCHED_CHARACTERS = 65_536

INDEX_MESSAGE = """
INSERT INTO message_search (vault_id, session_id, message_id, text)
VALUES (:vault_id, :session_id, :message_id, :text)
"""
UNINDEX_MESSAGE = """
DELETE FROM message_search
WHERE vault_id = :vault_id AND message_id = :message_id
    AND message_search MATCH 'message_id : "' || :message_id || '"'
"""
UNINDEX_SESSION = """
DELETE FROM message_search
WHERE vault_id = :vault_id AND session_id = :session_id
    AND message_search MATCH 'session_id : "' || :session_id || '"'
"""


async def index_message(tx: Transaction, *, session_id: str, message_id: str, text: str) -> None:
    """Lets a message be found by its text."""
    if text:
        searched = text[:SEARCHED_CHARACTERS]
        await tx.run(INDEX_MESSAGE, session_id=session_id, message_id=message_id, text=searched)


async def unindex_message(tx: Transaction, *, message_id: str) -> None:
    """Lets a message be found no more."""
    await tx.run(UNINDEX_MESSAGE, message_id=message_id)


async def unindex_session(tx: Transaction, *, session_id: str) -> None:
    """Lets no message of a session be found any more."""
    await tx.run(UNINDEX_SESSION, session_id=session_id)
