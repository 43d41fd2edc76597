"""Retention: a vault's sessions that nobody has used for long are deleted, as by DeleteSession."""

from metamorphd.store.database import SystemTransaction, Transaction
from metamorphd.store.sessions import delete_session

DAY = 24 * 3_600_000_000

# Of a vault that is suspended nothing is deleted.
LIST_RETAINING = """
SELECT vault_id FROM vaults
WHERE retention_days > 0 AND vault_id > :after
    AND NOT EXISTS (SELECT 1 FROM vault_states WHERE vault_states.vault_id = vaults.vault_id)
ORDER BY vault_id
LIMIT :limit
"""
GET_RETENTION = "SELECT retention_days FROM vaults WHERE vault_id = :vault_id"
# Those that are hidden already are below 0.
LIST_UNUSED = """
SELECT session_id FROM sessions
WHERE vault_id = :vault_id AND last_activity_time >= 0 AND last_activity_time < :before
ORDER BY last_activity_time, session_id
LIMIT :limit
"""


async def list_retaining_vaults(tx: SystemTransaction, *, after: str, limit: int) -> list[str]:
    """Returns the next vaults, with IDs above `after`, that are active and do not keep their sessions for ever."""
    return [row.vault_id for row in await tx.all(LIST_RETAINING, after=after, limit=limit)]


async def expire_sessions(tx: Transaction, *, now: int, limit: int) -> int:
    """Deletes sessions that were last used before the vault's retention, the least recently used first.

    Returns how many, at most `limit`.
    """
    vault = await tx.one(GET_RETENTION)
    if vault is None or not vault.retention_days:
        return 0
    unused = await tx.all(LIST_UNUSED, before=now - vault.retention_days * DAY, limit=limit)
    for session in unused:
        await delete_session(tx, session_id=session.session_id, etag="", now=now)
    return len(unused)
