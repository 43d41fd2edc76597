"""Leases of running turns: the server that owns a turn holds its lease, and lets it expire by dying."""

from metamorphd.store.database import SystemTransaction

LIST_ORPHANED_TURNS = """
SELECT vault_id, turn_id FROM turns
WHERE status = 'RUNNING' AND owner <> :owner AND lease_expire_time < :now
"""
RENEW_LEASES = """
UPDATE turns SET lease_expire_time = :expire_time
WHERE status = 'RUNNING' AND owner = :owner
"""

# After every time: with it, no lease of another server counts.
END_OF_TIME = 2**62


async def list_orphaned_turns(tx: SystemTransaction, *, owner: str, now: int) -> list[tuple[str, str]]:
    """Returns (vault ID, turn ID) of every running turn of another owner whose lease had expired at `now`, sorted."""
    rows = await tx.all(LIST_ORPHANED_TURNS, owner=owner, now=now)
    # Sorted here: with ORDER BY, the planner reads all turns in order instead of the index of the running ones.
    return sorted((row.vault_id, row.turn_id) for row in rows)


async def renew_leases(tx: SystemTransaction, *, owner: str, expire_time: int) -> int:
    """Extends the leases of all running turns of an owner, in one statement. Returns their number."""
    return await tx.run(RENEW_LEASES, owner=owner, expire_time=expire_time)
