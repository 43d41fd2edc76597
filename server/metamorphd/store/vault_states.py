"""The states of vaults. A vault without a row is active."""

from metamorphd.clock import rfc3339
from metamorphd.errors import DomainError, VaultDeleted, VaultSuspended
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.vault import VaultState, VaultStatus
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction, point_read

GET_VAULT_STATUS = """
SELECT vault_id, state, reason, actor, change_time FROM vault_states WHERE vault_id = :vault_id
"""
LOAD_VAULT_STATES = "SELECT vault_id, state, reason, actor, change_time FROM vault_states"
PUT_VAULT_STATUS = """
INSERT INTO vault_states (vault_id, state, reason, actor, change_time)
VALUES (:vault_id, :state, :reason, :actor, :change_time)
ON CONFLICT (vault_id) DO UPDATE SET
    state = excluded.state, reason = excluded.reason, actor = excluded.actor, change_time = excluded.change_time
"""
RESUME_VAULT = "DELETE FROM vault_states WHERE vault_id = :vault_id"


def _status(row: Row) -> VaultStatus:
    return VaultStatus(row.vault_id, VaultState(row.state), row.reason, row.actor, row.change_time)


def refusal_of(status: VaultStatus) -> DomainError | None:
    """Returns the error with which callers of a vault are refused, or None if it is active."""
    if status.state is VaultState.SUSPENDED:
        return VaultSuspended(suspend_time=rfc3339(status.change_time or 0), suspend_reason=status.reason)
    if status.state is VaultState.DELETED:
        return VaultDeleted(delete_time=rfc3339(status.change_time or 0))
    return None


async def require_active(tx: Transaction) -> None:
    """Raises VaultSuspended, VaultDeleted for a caller of such a vault.

    Within the transaction of each write that does not conclude, because a call may have been admitted before the state
    was changed, and its write wait. Where an engine has several writers, the two conflict in the vault's log: see
    docs/decisions/0050.
    """
    if tx.scope.of_caller:
        row = await tx.one(GET_VAULT_STATUS)
        if row is not None and (refusal := refusal_of(_status(row))) is not None:
            raise refusal


@point_read
async def get_vault_status(tx: Transaction) -> VaultStatus:
    """Returns the state of the vault."""
    row = await tx.one(GET_VAULT_STATUS)
    return VaultStatus(tx.scope.vault_id) if row is None else _status(row)


async def suspend_vault(tx: Transaction, *, reason: str, now: int) -> VaultStatus:
    """Suspends the vault, which need not be there yet. Of one that is suspended, only the reason is replaced.

    Raises VaultDeleted.
    """
    status = await _not_deleted(tx)
    since = status.change_time or now if status.state is VaultState.SUSPENDED else now
    suspended = VaultStatus(tx.scope.vault_id, VaultState.SUSPENDED, reason, tx.scope.actor.user_id, since)
    if (status.state, status.reason) == (suspended.state, suspended.reason):
        return status
    await put_vault_status(tx, status=suspended)
    await _append(tx, ChangeVerb.SUSPENDED, now)
    return suspended


async def resume_vault(tx: Transaction, *, now: int) -> VaultStatus:
    """Makes a suspended vault active again. Raises VaultDeleted."""
    status = await _not_deleted(tx)
    if status.state is VaultState.ACTIVE:
        return status
    await tx.run(RESUME_VAULT)
    await _append(tx, ChangeVerb.RESUMED, now)
    return VaultStatus(tx.scope.vault_id)


async def put_vault_status(tx: Transaction, *, status: VaultStatus) -> None:
    """Stores the state of the vault, which is not active."""
    await tx.run(
        PUT_VAULT_STATUS,
        state=status.state,
        reason=status.reason,
        actor=status.actor,
        change_time=status.change_time,
    )


async def load_vault_states(tx: SystemTransaction) -> list[VaultStatus]:
    """Returns the states of all vaults that are not active."""
    return [_status(row) for row in await tx.all(LOAD_VAULT_STATES)]


async def _not_deleted(tx: Transaction) -> VaultStatus:
    status = await get_vault_status(tx)
    if status.state is VaultState.DELETED and (refusal := refusal_of(status)) is not None:
        raise refusal
    return status


async def _append(tx: Transaction, verb: ChangeVerb, now: int) -> None:
    await append_change(tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=verb, now=now)
