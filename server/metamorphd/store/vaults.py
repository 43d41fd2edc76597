"""The vault's own row, and what the operator allows it."""

from collections.abc import Mapping
from dataclasses import asdict

from metamorphd.errors import EtagMismatch
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.changes import changed
from metamorphd.models.vault import Budget, SubjectBudgets, Vault, VaultChanges, VaultLimits
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, Transaction, grows
from metamorphd.store.subject_budgets import SetBy, budget_of, list_subject_budgets, put_subject_budgets

CREATE_VAULT = """
INSERT INTO vaults
    (vault_id, display_name, default_model, system_prompt, hash_key, revision, create_time, update_time)
VALUES (:vault_id, '', '', '', :hash_key, 1, :now, :now)
ON CONFLICT (vault_id) DO NOTHING
"""
# It changes nothing, and still conflicts with another transaction that does the same.
LOCK_VAULT = "UPDATE vaults SET revision = revision WHERE vault_id = :vault_id"
GET_VAULT = """
SELECT vaults.vault_id, display_name, default_model, system_prompt, create_time, vaults.update_time, revision,
    retention_days,
    vaults.tokens_per_day, vaults.tokens_per_month, vaults.cost_usd_nanos_per_day, vaults.cost_usd_nanos_per_month,
    vault_limits.tokens_per_day AS operator_tokens_per_day,
    vault_limits.tokens_per_month AS operator_tokens_per_month,
    vault_limits.cost_usd_nanos_per_day AS operator_cost_usd_nanos_per_day,
    vault_limits.cost_usd_nanos_per_month AS operator_cost_usd_nanos_per_month
FROM vaults LEFT JOIN vault_limits ON vault_limits.vault_id = :vault_id
WHERE vaults.vault_id = :vault_id
"""
UPDATE_VAULT = """
UPDATE vaults
SET display_name = :display_name, default_model = :default_model, system_prompt = :system_prompt,
    retention_days = :retention_days,
    tokens_per_day = :tokens_per_day, tokens_per_month = :tokens_per_month,
    cost_usd_nanos_per_day = :cost_usd_nanos_per_day, cost_usd_nanos_per_month = :cost_usd_nanos_per_month,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id
"""
GET_VAULT_LIMITS = """
SELECT vault_id, tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month, storage_bytes,
    update_time
FROM vault_limits WHERE vault_id = :vault_id
"""
PUT_VAULT_LIMITS = """
INSERT INTO vault_limits (vault_id, tokens_per_day, tokens_per_month, cost_usd_nanos_per_day,
    cost_usd_nanos_per_month, storage_bytes, update_time)
VALUES (:vault_id, :tokens_per_day, :tokens_per_month, :cost_usd_nanos_per_day, :cost_usd_nanos_per_month,
    :storage_bytes, :now)
ON CONFLICT (vault_id) DO UPDATE SET
    tokens_per_day = excluded.tokens_per_day, tokens_per_month = excluded.tokens_per_month,
    cost_usd_nanos_per_day = excluded.cost_usd_nanos_per_day,
    cost_usd_nanos_per_month = excluded.cost_usd_nanos_per_month, storage_bytes = excluded.storage_bytes,
    update_time = excluded.update_time
"""


def _vault(row: Row, subject_budgets: Mapping[SetBy, SubjectBudgets]) -> Vault:
    return Vault(
        vault_id=row.vault_id,
        display_name=row.display_name,
        default_model=row.default_model,
        system_prompt=row.system_prompt,
        budget=budget_of(row),
        operator_budget=Budget(
            tokens_per_day=row.operator_tokens_per_day,
            tokens_per_month=row.operator_tokens_per_month,
            cost_usd_nanos_per_day=row.operator_cost_usd_nanos_per_day,
            cost_usd_nanos_per_month=row.operator_cost_usd_nanos_per_month,
        ),
        subject_budgets=subject_budgets[SetBy.VAULT],
        operator_subject_budgets=subject_budgets[SetBy.OPERATOR],
        create_time=row.create_time,
        update_time=row.update_time,
        revision=row.revision,
        retention_days=row.retention_days,
    )


async def create_vault(tx: Transaction, *, hash_key: bytes, now: int) -> Vault:
    """Creates the vault unless it exists. `hash_key`, 32 random bytes, keys the hashes of its requests."""
    if await tx.run(CREATE_VAULT, hash_key=hash_key, now=now):
        await _append(tx, ChangedResource.VAULT, ChangeVerb.CREATED, now)
    return await _stored(tx)


async def _append(tx: Transaction, resource: ChangedResource, verb: ChangeVerb, now: int) -> None:
    await append_change(tx, resource=resource, resource_id=tx.scope.vault_id, verb=verb, now=now)


async def lock_vault(tx: Transaction) -> None:
    """Makes operations of the vault that begin with this run one after the other. See docs/decisions/0025."""
    await tx.run(LOCK_VAULT)


async def _stored(tx: Transaction) -> Vault:
    vault = await get_vault(tx)
    if vault is None:
        raise RuntimeError("a vault that was just made is missing")
    return vault


async def get_vault(tx: Transaction) -> Vault | None:
    """The vault, or None before its first use."""
    row = await tx.one(GET_VAULT)
    return None if row is None else _vault(row, await list_subject_budgets(tx))


@grows
async def update_vault(tx: Transaction, *, changes: VaultChanges, etag: str, hash_key: bytes, now: int) -> Vault:
    """Changes fields of the vault. Raises EtagMismatch when `etag` is given and stale."""
    vault = await create_vault(tx, hash_key=hash_key, now=now)
    if etag and etag != str(vault.revision):
        raise EtagMismatch
    new = changed(vault, changes)
    await tx.run(
        UPDATE_VAULT,
        display_name=new.display_name,
        default_model=new.default_model,
        system_prompt=new.system_prompt,
        retention_days=new.retention_days,
        now=now,
        **asdict(new.budget),
    )
    if changes.subject_budgets is not None:
        await put_subject_budgets(tx, set_by=SetBy.VAULT, budgets=changes.subject_budgets)
    await _append(tx, ChangedResource.VAULT, ChangeVerb.UPDATED, now)
    return await _stored(tx)


async def get_vault_limits(tx: Transaction) -> VaultLimits:
    """Reads the limits that the operator set for the vault; without limits where none were set."""
    row = await tx.one(GET_VAULT_LIMITS)
    if row is None:
        return VaultLimits(tx.scope.vault_id, Budget(), SubjectBudgets(), None)
    subject_budgets = (await list_subject_budgets(tx))[SetBy.OPERATOR]
    return VaultLimits(row.vault_id, budget_of(row), subject_budgets, row.update_time, row.storage_bytes)


async def update_vault_limits(
    tx: Transaction,
    *,
    budget: Budget | None,
    subject_budgets: SubjectBudgets | None = None,
    now: int,
    storage_bytes: int | None = None,
    changes_storage: bool = False,
) -> VaultLimits:
    """Sets what the operator allows the vault, which need not be there yet. Budgets of None stay as they are.

    `storage_bytes` is set if `changes_storage`, and None is the server's default.
    """
    limits = await get_vault_limits(tx)
    await tx.run(
        PUT_VAULT_LIMITS,
        now=now,
        storage_bytes=storage_bytes if changes_storage else limits.storage_bytes,
        **asdict(limits.budget if budget is None else budget),
    )
    if subject_budgets is not None:
        await put_subject_budgets(tx, set_by=SetBy.OPERATOR, budgets=subject_budgets)
    await _append(tx, ChangedResource.VAULT_LIMITS, ChangeVerb.UPDATED, now)
    return await get_vault_limits(tx)
