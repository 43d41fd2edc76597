"""The compaction of logs: old entries are hidden from watchers, and deleted much later."""

from typing import NamedTuple

from metamorphd.chain import Head
from metamorphd.models.change import OldestChange
from metamorphd.store.changes import get_bounds
from metamorphd.store.database import SystemTransaction, Transaction

# A few seeks a vault.
LIST_OLDEST_CHANGES = """
WITH RECURSIVE visited (id, number) AS (
    SELECT MIN(vault_id), 1 FROM changes WHERE vault_id > :after
    UNION ALL
    SELECT (SELECT MIN(vault_id) FROM changes WHERE changes.vault_id > visited.id), number + 1
    FROM visited WHERE visited.id IS NOT NULL AND number < :limit
)
SELECT visited.id AS vault_id, shown.change_time,
    shown.change_time < :before AND shown.revision < (
        SELECT MAX(revision) FROM changes AS newest WHERE newest.vault_id = visited.id) AS due,
    kept.change_time < :delete_before AND kept.revision < shown.revision AS deletable
FROM visited
LEFT JOIN log_beginnings ON log_beginnings.vault_id = visited.id
LEFT JOIN changes AS shown
    ON shown.vault_id = visited.id AND shown.revision = 1 + COALESCE(log_beginnings.compacted_revision, 0)
LEFT JOIN changes AS kept
    ON kept.vault_id = visited.id AND kept.revision = 1 + COALESCE(log_beginnings.deleted_revision, 0)
WHERE visited.id IS NOT NULL
ORDER BY number
"""
GET_BEGINNING = """
SELECT compacted_revision, deleted_revision FROM log_beginnings WHERE vault_id = :vault_id
"""
FIND_FIRST_KEPT = """
SELECT MIN(revision) AS revision FROM (
    SELECT revision, change_time FROM changes
    WHERE vault_id = :vault_id AND revision > :after
    ORDER BY revision
    LIMIT :limit
) AS oldest
WHERE change_time >= :before
"""
COMPACT_CHANGES = """
INSERT INTO log_beginnings (vault_id, compacted_revision, deleted_revision, deleted_mac, key_id, seal)
VALUES (:vault_id, :compacted_revision, 0, :nothing, '', :nothing)
ON CONFLICT (vault_id) DO UPDATE SET compacted_revision = excluded.compacted_revision
"""
# Only what operators have done since is newer.
FIND_DELETION = """
SELECT revision FROM changes WHERE vault_id = :vault_id AND resource = 'vault' AND verb = 'deleted'
ORDER BY revision DESC
LIMIT 1
"""
GET_MAC = "SELECT mac FROM changes WHERE vault_id = :vault_id AND revision = :revision"
DELETE_ENTRIES = "DELETE FROM changes WHERE vault_id = :vault_id AND revision > :after AND revision <= :last"
CUT_LOG = """
UPDATE log_beginnings SET deleted_revision = :last, deleted_mac = :mac, key_id = :key_id, seal = :seal
WHERE vault_id = :vault_id
"""


class _Beginning(NamedTuple):
    """The revisions up to which watchers are shown nothing, and up to which nothing is kept."""

    compacted: int = 0
    deleted: int = 0


async def list_oldest_changes(
    tx: SystemTransaction, *, after: str, before: int, delete_before: int, limit: int
) -> list[OldestChange]:
    """Returns the oldest change of each of the next `limit` logs of vaults with IDs above `after`, in order.

    Those are due that were made before `before`, unless they are the newest too. Entries that were made before
    `delete_before`, and that watchers are not shown any more, are deletable.
    """
    rows = await tx.all(LIST_OLDEST_CHANGES, after=after, before=before, delete_before=delete_before, limit=limit)
    return [OldestChange(row.vault_id, row.change_time or 0, bool(row.due), bool(row.deletable)) for row in rows]


async def compact_changes(tx: Transaction, *, before: int, limit: int) -> bool:
    """Hides at most `limit` of the oldest changes from watchers, up to the first that was made at `before` or later.

    So no gap arises where times are out of order. The newest change stays. Returns whether there may be more to hide.
    """
    bounds = await get_bounds(tx)
    hidden: int = bounds.oldest_revision - 1
    last: int = min(await _last_before(tx, after=hidden, before=before, limit=limit), bounds.newest_revision - 1)
    if last <= hidden:
        return False
    await tx.run(COMPACT_CHANGES, compacted_revision=last, nothing=b"")
    return last - hidden == limit


async def delete_entries(tx: Transaction, *, before: int, limit: int) -> bool:
    """Deletes at most `limit` of the oldest entries, up to the first that was made at `before` or later.

    Those that watchers are still shown stay. What the first entry that is kept follows is stored, sealed. Returns
    whether there may be more to delete.
    """
    beginning = await _beginning(tx)
    last = min(await _last_before(tx, after=beginning.deleted, before=before, limit=limit), beginning.compacted)
    if last <= beginning.deleted:
        return False
    return await _cut(tx, after=beginning.deleted, last=last) == limit


async def erase_entries(tx: Transaction, *, limit: int) -> bool:
    """Hides and deletes at most `limit` of the oldest entries of a deleted vault, up to its deletion, which stays.

    Whatever their times are: those of calls are a little out of order. Returns whether there may be more to delete.
    """
    deletion, beginning = await tx.one(FIND_DELETION), await _beginning(tx)
    last = min(beginning.deleted + limit, 0 if deletion is None else deletion.revision - 1)
    if last <= beginning.deleted:
        return False
    if last > beginning.compacted:
        await tx.run(COMPACT_CHANGES, compacted_revision=last, nothing=b"")
    return await _cut(tx, after=beginning.deleted, last=last) == limit


async def _beginning(tx: Transaction) -> _Beginning:
    row = await tx.one(GET_BEGINNING)
    return _Beginning() if row is None else _Beginning(row.compacted_revision, row.deleted_revision)


async def _cut(tx: Transaction, *, after: int, last: int) -> int:
    """Deletes the entries after a revision up to another one, and returns how many there were."""
    newest = await tx.one(GET_MAC, revision=last)
    cut = Head(last, b"" if newest is None else newest.mac)
    deleted = await tx.run(DELETE_ENTRIES, after=after, last=last)
    await tx.run(CUT_LOG, last=last, mac=cut.mac, key_id=tx.chain.key_id, seal=tx.chain.seal(tx.scope.vault_id, cut))
    return deleted


async def _last_before(tx: Transaction, *, after: int, before: int, limit: int) -> int:
    """Returns the last revision of those that follow `after`, at most `limit`, that were made before a time."""
    young = await tx.one(FIND_FIRST_KEPT, after=after, before=before, limit=limit)
    return after + limit if young is None or young.revision is None else int(young.revision) - 1
