"""Whether the store answers; asked inline, so that busy readers do not look like a store that is gone."""

from metamorphd.store.database import SystemTransaction, point_read

PROBE = "SELECT 1"


@point_read
async def probe(tx: SystemTransaction) -> None:
    """Reads nothing; raises whatever keeps the store from reading."""
    await tx.one(PROBE)
