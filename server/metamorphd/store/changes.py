"""The log of a vault: every operation that changes what its callers can read appends to it, in its own transaction."""

from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.store.database import Transaction

# Two transactions that append to one vault at the same time conflict: see docs/decisions/0044. With ON CONFLICT, one is
# repeated where an engine has several writers; without, it would fail.
APPEND_CHANGE = """
INSERT INTO changes (vault_id, revision, change_time, actor, call_id, resource, resource_id, verb)
VALUES (:vault_id, 1 + (SELECT COALESCE(MAX(revision), 0) FROM changes WHERE vault_id = :vault_id),
    :now, :actor, :call_id, :resource, :resource_id, :verb)
ON CONFLICT (vault_id, revision) DO NOTHING
RETURNING revision
"""


async def append_change(
    tx: Transaction, *, resource: ChangedResource, resource_id: str, verb: ChangeVerb, now: int
) -> int:
    """Appends a change to the vault's log, and returns the vault's new revision. The scope says who made it.

    Those who watch the vault learn of it once the operation is committed.
    """
    scope = tx.scope
    row = await tx.one(
        APPEND_CHANGE,
        resource=resource,
        resource_id=resource_id,
        verb=verb,
        now=now,
        # An operator is a user of another vault, or of none.
        actor=scope.actor.user_id if scope.actor.vault_id == scope.vault_id else "",
        call_id=scope.call_id,
    )
    if row is None:
        raise RuntimeError("a revision is taken")
    revision: int = row.revision
    tx.revision = revision
    return revision
