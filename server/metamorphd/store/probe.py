"""Whether the store answers."""

from metamorphd.store.database import SystemTransaction

PROBE = "SELECT 1"


async def probe(tx: SystemTransaction) -> None:
    """Reads nothing; raises whatever keeps the store from reading."""
    await tx.one(PROBE)
