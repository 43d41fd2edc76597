"""The bytes that a vault stores, and the quota on them. Triggers of the schema count them."""

from metamorphd.errors import QuotaViolation, StorageQuotaExceeded
from metamorphd.models.vault import StorageStatus
from metamorphd.store.database import Transaction

# The operator may set a limit before the vault is first used.
GET_STORAGE = """
SELECT
    (SELECT stored_bytes FROM vaults WHERE vault_id = :vault_id) AS stored_bytes,
    (SELECT storage_bytes FROM vault_limits WHERE vault_id = :vault_id) AS storage_bytes
"""


async def get_storage(tx: Transaction, *, default_limit: int) -> StorageStatus:
    """Returns the bytes that the vault stores, and its limit. `default_limit` applies unless the operator set one."""
    row = await tx.one(GET_STORAGE)
    stored = 0 if row is None else row.stored_bytes or 0
    limit = None if row is None else row.storage_bytes
    return StorageStatus(stored, (default_limit or None) if limit is None else limit)


async def require_storage(tx: Transaction, *, added_bytes: int, default_limit: int) -> None:
    """Raises StorageQuotaExceeded if the vault would store more than its limit with `added_bytes`."""
    status = await get_storage(tx, default_limit=default_limit)
    if status.limit_bytes is not None and status.stored_bytes + added_bytes > status.limit_bytes:
        raise StorageQuotaExceeded(
            limit_bytes=status.limit_bytes,
            stored_bytes=status.stored_bytes,
            quotas=[QuotaViolation("storage_bytes", f"{status.stored_bytes} of {status.limit_bytes} bytes are stored")],
        )
