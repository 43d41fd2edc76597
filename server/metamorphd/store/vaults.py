"""The vault's own row."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metamorphd.errors import EtagMismatch
from metamorphd.models import Vault
from metamorphd.store.database import Row, Transaction, point_read

COLUMNS = "vault_id, display_name, default_model, system_prompt, create_time, update_time, revision"

CREATE_VAULT = """
INSERT INTO vaults
    (vault_id, display_name, default_model, system_prompt, request_key, revision, create_time, update_time)
VALUES (:vault_id, '', '', '', :request_key, 1, :now, :now)
ON CONFLICT (vault_id) DO NOTHING
"""
GET_VAULT = "SELECT " + COLUMNS + " FROM vaults WHERE vault_id = :vault_id"
UPDATE_VAULT = (
    """
UPDATE vaults
SET display_name = :display_name, default_model = :default_model, system_prompt = :system_prompt,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id
RETURNING """
    + COLUMNS
)


def _vault(row: Row) -> Vault:
    return Vault(*row)


async def create_vault(tx: Transaction, *, request_key: bytes, now: int) -> Vault:
    """Makes the vault unless it is there; `request_key`, 32 random bytes, keys its request hashes."""
    await tx.run(CREATE_VAULT, request_key=request_key, now=now)
    row = await tx.one(GET_VAULT)
    if row is None:
        raise RuntimeError("a vault that was just made is missing")
    return _vault(row)


@point_read
async def get_vault(tx: Transaction) -> Vault | None:
    """The vault, or None before its first use."""
    row = await tx.one(GET_VAULT)
    return None if row is None else _vault(row)


async def update_vault(
    tx: Transaction, *, changes: Mapping[str, Any], etag: str, request_key: bytes, now: int
) -> Vault:
    """Sets the fields in `changes`, by their names in Vault. Raises EtagMismatch when `etag` is given and stale."""
    vault = await create_vault(tx, request_key=request_key, now=now)
    if etag and etag != str(vault.revision):
        raise EtagMismatch
    changed = replace(vault, **changes)
    row = await tx.one(
        UPDATE_VAULT,
        display_name=changed.display_name,
        default_model=changed.default_model,
        system_prompt=changed.system_prompt,
        now=now,
    )
    if row is None:
        raise RuntimeError("a vault that was just read is missing")
    return _vault(row)
