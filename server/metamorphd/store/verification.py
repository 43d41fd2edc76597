"""The logs of vaults as a verification reads them: entry by entry, as stored."""

from metamorphd.chain import BEGINNING, Entry, Head, LogBeginning, StoredEntry
from metamorphd.models.audit import LogHead
from metamorphd.models.caller import SERVER_LOG
from metamorphd.store.database import Row, SystemTransaction, Transaction, point_read

# A seek a vault.
LIST_LOG_HEADS = """
WITH RECURSIVE visited (id, number) AS (
    SELECT MIN(vault_id), 1 FROM changes WHERE vault_id > :after
    UNION ALL
    SELECT (SELECT MIN(vault_id) FROM changes WHERE changes.vault_id > visited.id), number + 1
    FROM visited WHERE visited.id IS NOT NULL AND number < :limit
)
SELECT changes.vault_id, revision, mac, change_time
FROM visited CROSS JOIN changes
WHERE changes.vault_id = visited.id
    AND revision = (SELECT MAX(revision) FROM changes AS newest WHERE newest.vault_id = visited.id)
ORDER BY number
"""
GET_LOG_BEGINNING = """
SELECT deleted_revision, deleted_mac, key_id, seal FROM log_beginnings WHERE vault_id = :vault_id
"""
GET_OLDEST_REVISION = "SELECT revision FROM changes WHERE vault_id = :vault_id ORDER BY revision LIMIT 1"
LIST_ENTRIES = """
SELECT vault_id, revision, change_time, actor, operator, call_id, resource, resource_id, verb, detail, key_id, mac
FROM changes
WHERE vault_id = :vault_id AND revision > :after AND revision <= :last
ORDER BY revision
LIMIT :limit
"""
LIST_MACS = """
SELECT revision, mac FROM changes
WHERE vault_id = :vault_id AND revision > :after AND revision <= :last
ORDER BY revision
LIMIT :limit
"""
# The server's own log comes first: it has entries of every day, the oldest and the newest ones.
LIST_CHAIN_KEYS = """
SELECT key_id FROM (SELECT key_id FROM changes ORDER BY vault_id, revision LIMIT :limit) AS oldest
WHERE key_id <> ''
UNION
SELECT key_id FROM (
    SELECT key_id FROM changes WHERE vault_id = :server_log ORDER BY revision DESC LIMIT :limit
) AS newest
WHERE key_id <> ''
ORDER BY key_id
"""
VISITED_FOR_KEYS = 500

GET_ENTRY_MAC = "SELECT mac FROM changes WHERE vault_id = :vault_id AND revision = :revision"


async def list_log_heads(tx: SystemTransaction, *, after: str, limit: int) -> list[LogHead]:
    """Returns the newest entry of each of the next `limit` logs of vaults with IDs above `after`, in order."""
    rows = await tx.all(LIST_LOG_HEADS, after=after, limit=limit)
    return [LogHead(row.vault_id, row.revision, row.mac, row.change_time) for row in rows]


async def list_chain_keys(tx: SystemTransaction) -> list[str]:
    """Returns the IDs of keys that authenticate entries of logs, as far as some entries show, not of every vault."""
    rows = await tx.all(LIST_CHAIN_KEYS, server_log=SERVER_LOG, limit=VISITED_FOR_KEYS)
    return [row.key_id for row in rows]


@point_read
async def get_log_beginning(tx: Transaction) -> LogBeginning:
    """Returns where the vault's log begins."""
    row = await tx.one(GET_LOG_BEGINNING)
    if row is None:
        return LogBeginning(BEGINNING, "", b"")
    return LogBeginning(Head(row.deleted_revision, row.deleted_mac), row.key_id, row.seal)


@point_read
async def get_oldest_revision(tx: Transaction) -> int | None:
    """Returns the revision of the vault's oldest entry that is there, or None."""
    row = await tx.one(GET_OLDEST_REVISION)
    return None if row is None else int(row.revision)


async def list_entries(tx: Transaction, *, after: int, last: int, limit: int) -> list[StoredEntry]:
    """Returns the vault's next `limit` entries after a revision, up to a last one, in order."""
    try:
        return [_stored(row) for row in await tx.all(LIST_ENTRIES, after=after, last=last, limit=limit)]
    except UnicodeDecodeError:
        # A flipped bit is enough for that, and must not keep the others from being verified.
        return [await _readable(tx, row) for row in await tx.all(LIST_MACS, after=after, last=last, limit=limit)]


async def _readable(tx: Transaction, found: Row) -> StoredEntry:
    revision = found.revision
    try:
        (row,) = await tx.all(LIST_ENTRIES, after=revision - 1, last=revision, limit=1)
    except UnicodeDecodeError:
        entry = Entry(tx.scope.vault_id, revision, 0, "", 0, "", "", "", "", "")
        return StoredEntry(entry, "", found.mac, readable=False)
    return _stored(row)


def _stored(row: Row) -> StoredEntry:
    return StoredEntry(
        Entry(
            row.vault_id,
            row.revision,
            row.change_time,
            row.actor,
            row.operator,
            row.call_id,
            row.resource,
            row.resource_id,
            row.verb,
            row.detail,
        ),
        row.key_id,
        row.mac,
    )


@point_read
async def get_entry_mac(tx: Transaction, *, revision: int) -> bytes | None:
    """Returns the MAC of an entry of the vault, or None if it is not there."""
    row = await tx.one(GET_ENTRY_MAC, revision=revision)
    return None if row is None else bytes(row.mac)
