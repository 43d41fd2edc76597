"""Erases deleted sessions, in steps that hold the writer for a few milliseconds each."""

from metamorphd.store.attachments import release_message
from metamorphd.store.database import SystemTransaction, Transaction

FIND_DELETED_SESSION = """
SELECT vault_id, session_id FROM sessions
WHERE delete_time IS NOT NULL AND vault_id > :after
ORDER BY vault_id, session_id
LIMIT 1
"""
COUNT_DELETED_SESSIONS = "SELECT COUNT(*) AS sessions FROM sessions WHERE delete_time IS NOT NULL"
LIST_MESSAGES = """
SELECT messages.message_id, link.size
FROM messages CROSS JOIN message_links AS link
WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id
    AND link.vault_id = :vault_id AND link.message_id = messages.message_id
ORDER BY ordinal DESC
LIMIT :limit
"""
DELETE_MESSAGE = "DELETE FROM messages WHERE vault_id = :vault_id AND message_id = :message_id"
LIST_TURNS = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id
ORDER BY turn_id DESC
LIMIT :limit
"""
DELETE_EVENTS = """
DELETE FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id AND sequence IN (
    SELECT sequence FROM events WHERE vault_id = :vault_id AND turn_id = :turn_id ORDER BY sequence LIMIT :limit
)
"""
DELETE_TURN = "DELETE FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
DELETE_SESSION = "DELETE FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id"

# What a step erases at most, but one message whole. Measured: docs/decisions/0029-deletion-in-steps.md.
STEP_MESSAGES, STEP_BYTES = 4, 65_536
STEP_TURNS, STEP_EVENTS = 20, 200


async def find_deleted_session(tx: SystemTransaction, *, after: str) -> tuple[str, str] | None:
    """Returns (vault ID, session ID) of a deleted session of the first vault above `after` that has one."""
    row = await tx.one(FIND_DELETED_SESSION, after=after)
    return None if row is None else (row.vault_id, row.session_id)


async def count_deleted_sessions(tx: SystemTransaction) -> int:
    """Returns how many sessions are deleted and not erased yet, of all vaults."""
    row = await tx.one(COUNT_DELETED_SESSIONS)
    return 0 if row is None else row.sessions


async def erase_step(tx: Transaction, *, session_id: str) -> None:
    """Erases a part of a deleted session; the session itself when nothing else is left of it."""
    if await _erase_messages(tx, session_id) or await _erase_turns(tx, session_id):
        return
    await tx.run(DELETE_SESSION, session_id=session_id)


async def _erase_messages(tx: Transaction, session_id: str) -> bool:
    """Erases the newest messages, with their words and their attachments. Returns False if there are none."""
    messages = await tx.all(LIST_MESSAGES, session_id=session_id, limit=STEP_MESSAGES)
    size = 0
    for message in messages:
        size += message.size
        if size > STEP_BYTES and message is not messages[0]:
            break
        await release_message(tx, session_id=session_id, message_id=message.message_id)
        await tx.search.delete_message(message_id=message.message_id)
        await tx.run(DELETE_MESSAGE, message_id=message.message_id)
    return bool(messages)


async def _erase_turns(tx: Transaction, session_id: str) -> bool:
    """Erases turns whose events are few, or a part of the events of one. Returns False if there are no turns."""
    turns = await tx.all(LIST_TURNS, session_id=session_id, limit=STEP_TURNS)
    events = 0
    for turn in turns:
        events += await tx.run(DELETE_EVENTS, turn_id=turn.turn_id, limit=STEP_EVENTS - events)
        if events >= STEP_EVENTS:
            break
        await tx.run(DELETE_TURN, turn_id=turn.turn_id)
    return bool(turns)
