"""The log of a vault: every operation that changes what its callers can read appends to it, in its own transaction."""

from typing import Any, TypeVar

from metamorphd.errors import RevisionAhead, RevisionCompacted
from metamorphd.models.change import Change, ChangedResource, Changes, ChangeVerb, OldestChange
from metamorphd.store.database import Operation, P, Row, SystemTransaction, Transaction, grows, is_growing, point_read

T = TypeVar("T")

# Two transactions that append to one vault at the same time conflict: see docs/decisions/0044. With ON CONFLICT, one is
# repeated where an engine has several writers; without, it would fail. A statement that also finds the revision, and
# returns it, takes twice as long as the two.
APPEND_CHANGE = """
INSERT INTO changes (vault_id, revision, change_time, actor, call_id, resource, resource_id, verb)
VALUES (:vault_id, :revision, :now, :actor, :call_id, :resource, :resource_id, :verb)
ON CONFLICT (vault_id, revision) DO NOTHING
"""
GET_REVISION = "SELECT revision FROM changes WHERE vault_id = :vault_id ORDER BY revision DESC LIMIT 1"
GET_BOUNDS = """
SELECT (SELECT COALESCE(MIN(revision), 1) FROM changes WHERE vault_id = :vault_id) AS oldest_revision,
    (SELECT COALESCE(MAX(revision), 0) FROM changes WHERE vault_id = :vault_id) AS newest_revision
"""
LIST_CHANGES = """
SELECT revision, change_time, actor, call_id, resource, resource_id, verb FROM changes
WHERE vault_id = :vault_id AND revision > :after_revision AND revision <= :last_revision
ORDER BY revision
"""
# A seek a vault.
LIST_OLDEST_CHANGES = """
WITH RECURSIVE visited (id, number) AS (
    SELECT MIN(vault_id), 1 FROM changes WHERE vault_id > :after
    UNION ALL
    SELECT (SELECT MIN(vault_id) FROM changes WHERE changes.vault_id > visited.id), number + 1
    FROM visited WHERE visited.id IS NOT NULL AND number < :limit
)
SELECT changes.vault_id, change_time, change_time < :before AND revision < (
    SELECT MAX(revision) FROM changes AS newest WHERE newest.vault_id = visited.id) AS due
FROM visited CROSS JOIN changes
WHERE changes.vault_id = visited.id
    AND revision = (SELECT MIN(revision) FROM changes AS oldest WHERE oldest.vault_id = visited.id)
ORDER BY number
"""
FIND_FIRST_KEPT = """
SELECT MIN(revision) AS revision FROM (
    SELECT revision, change_time FROM changes WHERE vault_id = :vault_id ORDER BY revision LIMIT :limit
) AS oldest
WHERE change_time >= :before
"""
COMPACT_CHANGES = "DELETE FROM changes WHERE vault_id = :vault_id AND revision < :first_kept"

# Looking up a member takes a third of the time that making it by name does.
RESOURCES = {resource.value: resource for resource in ChangedResource}
VERBS = {verb.value: verb for verb in ChangeVerb}

_revised: dict[Any, Any] = {}


async def append_change(
    tx: Transaction, *, resource: ChangedResource, resource_id: str, verb: ChangeVerb, now: int
) -> int:
    """Appends a change to the vault's log, and returns the vault's new revision. The scope says who made it.

    Those who watch the vault learn of it once the operation is committed.
    """
    scope = tx.scope
    revision = 1 + (await get_revision(tx) if tx.revision is None else tx.revision)
    appended = await tx.run(
        APPEND_CHANGE,
        revision=revision,
        resource=resource,
        resource_id=resource_id,
        verb=verb,
        now=now,
        actor=scope.actor.user_id if scope.of_caller else "",
        call_id=scope.call_id,
    )
    if not appended:
        raise RuntimeError("a revision is taken")
    tx.revision = revision
    return revision


def revised(operation: Operation[P, T]) -> Operation[P, tuple[T, int]]:
    """Returns an operation that returns the vault's revision too: that of its last change, or of an earlier one."""
    if operation not in _revised:

        async def run(tx: Transaction, *args: P.args, **kwargs: P.kwargs) -> tuple[T, int]:
            result = await operation(tx, *args, **kwargs)
            return result, await get_revision(tx) if tx.revision is None else tx.revision

        # By which it is traced.
        run.__name__ = operation.__name__
        _revised[operation] = grows(run) if is_growing(operation) else run
    made: Operation[P, tuple[T, int]] = _revised[operation]
    return made


@point_read
async def get_revision(tx: Transaction) -> int:
    """Returns the vault's revision, 0 if nothing was ever stored."""
    row = await tx.one(GET_REVISION)
    return 0 if row is None else int(row.revision)


async def list_changes(tx: Transaction, *, after_revision: int, limit: int) -> Changes:
    """Returns the changes after a revision, at most `limit`. Raises RevisionAhead, RevisionCompacted."""
    bounds = await _bounds(tx)
    if after_revision > bounds.newest_revision:
        raise RevisionAhead(newest_revision=bounds.newest_revision)
    if after_revision + 1 < bounds.oldest_revision:
        raise RevisionCompacted(oldest_revision=bounds.oldest_revision)
    rows = await tx.all(LIST_CHANGES, after_revision=after_revision, last_revision=after_revision + limit)
    return Changes(after_revision, tuple(map(_change, rows)), bounds.newest_revision)


def _change(row: Row) -> Change:
    return Change(
        revision=row.revision,
        change_time=row.change_time,
        actor=row.actor,
        call_id=row.call_id,
        resource=RESOURCES[row.resource],
        resource_id=row.resource_id,
        verb=VERBS[row.verb],
    )


async def list_oldest_changes(tx: SystemTransaction, *, after: str, before: int, limit: int) -> list[OldestChange]:
    """Returns the oldest change that is kept of each of the next `limit` vaults with IDs above `after`, in order.

    Those are due that were made before `before`, unless they are the newest too.
    """
    rows = await tx.all(LIST_OLDEST_CHANGES, after=after, before=before, limit=limit)
    return [OldestChange(row.vault_id, row.change_time, bool(row.due)) for row in rows]


async def compact_changes(tx: Transaction, *, before: int, limit: int) -> bool:
    """Deletes at most `limit` of the vault's oldest changes, up to the first that was made at `before` or later.

    So no gap arises where times are out of order. The newest change stays. Returns whether there may be more to delete.
    """
    bounds = await _bounds(tx)
    young = await tx.one(FIND_FIRST_KEPT, before=before, limit=limit)
    first_kept = min(bounds.newest_revision, bounds.oldest_revision + limit)
    if young is not None and young.revision is not None:
        first_kept = min(first_kept, young.revision)
    return await tx.run(COMPACT_CHANGES, first_kept=first_kept) == limit


async def _bounds(tx: Transaction) -> Row:
    bounds = await tx.one(GET_BOUNDS)
    if bounds is None:
        raise RuntimeError("a statement without a table returned no row")
    return bounds
