"""Erases deleted vaults, in steps that hold the writer for a few milliseconds each.

Nobody reads a deleted vault, so rows are erased table by table, and no word has to be taken out of the index by itself.
What is as large as callers make it is erased by its size, all else by its number. The order matters only where rows
would be deleted with others, in a number without a bound.
"""

from collections.abc import Sequence

from metamorphd.models.operation import OperationKind
from metamorphd.models.vault import VaultState
from metamorphd.store.compaction import erase_entries
from metamorphd.store.database import Row, SystemTransaction, Transaction
from metamorphd.store.vault_states import get_vault_status

# The most that a step erases. Measured: docs/decisions/0052-a-vault-is-deleted-in-one-transaction.md.
STEP_ROWS = 200
STEP_BYTES = 262_144
STEP_SIZED_ROWS = 64
STEP_VALUES = 4

ERASE_QUEUE = """
DELETE FROM erasures WHERE vault_id = :vault_id AND (due_time, resource, id) IN (
    SELECT due_time, resource, id FROM erasures WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_STAGED = """
DELETE FROM staged_records WHERE vault_id = :vault_id AND number IN (
    SELECT number FROM staged_records WHERE vault_id = :vault_id ORDER BY number LIMIT :limit)
"""
ERASE_IMPORT = "DELETE FROM imports WHERE vault_id = :vault_id"
ERASE_REQUESTS = """
DELETE FROM requests WHERE vault_id = :vault_id AND (rpc, request_id) IN (
    SELECT rpc, request_id FROM requests WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_INDEXED = """
DELETE FROM indexed_messages WHERE vault_id = :vault_id AND number IN (
    SELECT number FROM indexed_messages WHERE vault_id = :vault_id ORDER BY number LIMIT :limit)
"""
ERASE_POSTINGS = """
DELETE FROM postings WHERE vault_id = :vault_id AND (block, term) IN (
    SELECT block, term FROM postings WHERE vault_id = :vault_id ORDER BY block, term LIMIT :limit)
"""
ERASE_EVENTS = """
DELETE FROM events WHERE vault_id = :vault_id AND (turn_id, sequence) IN (
    SELECT turn_id, sequence FROM events WHERE vault_id = :vault_id ORDER BY turn_id, sequence LIMIT :limit)
"""
ERASE_USES = """
DELETE FROM attachment_uses WHERE vault_id = :vault_id AND (attachment_id, message_id) IN (
    SELECT attachment_id, message_id FROM attachment_uses WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_CHUNKS = """
DELETE FROM attachment_chunks WHERE vault_id = :vault_id AND (attachment_id, number) IN (
    SELECT attachment_id, number FROM attachment_chunks WHERE vault_id = :vault_id LIMIT 1)
"""
ERASE_ATTACHMENTS = """
DELETE FROM attachments WHERE vault_id = :vault_id AND attachment_id IN (
    SELECT attachment_id FROM attachments WHERE vault_id = :vault_id LIMIT :limit)
"""
LIST_SIZED_MESSAGES = """
SELECT message_id AS id, size FROM message_links WHERE vault_id = :vault_id ORDER BY message_id LIMIT :limit
"""
# With their links.
ERASE_LINKED = """
DELETE FROM messages WHERE vault_id = :vault_id AND message_id IN (
    SELECT message_id FROM message_links WHERE vault_id = :vault_id ORDER BY message_id LIMIT :limit)
"""
# Of a database that is being migrated.
ERASE_UNLINKED = """
DELETE FROM messages WHERE vault_id = :vault_id AND message_id IN (
    SELECT message_id FROM messages WHERE vault_id = :vault_id LIMIT :limit)
"""
LIST_SIZED_MEMORIES = (
    "SELECT memory_id AS id, size FROM memories WHERE vault_id = :vault_id ORDER BY memory_id LIMIT :limit"
)
ERASE_MEMORIES = """
DELETE FROM memories WHERE vault_id = :vault_id AND memory_id IN (
    SELECT memory_id FROM memories WHERE vault_id = :vault_id ORDER BY memory_id LIMIT :limit)
"""
LIST_SIZED_TURNS = """
SELECT turn_id AS id, octet_length(options) + COALESCE(octet_length(error), 0) AS size
FROM turns WHERE vault_id = :vault_id ORDER BY turn_id LIMIT :limit
"""
ERASE_TURNS = """
DELETE FROM turns WHERE vault_id = :vault_id AND turn_id IN (
    SELECT turn_id FROM turns WHERE vault_id = :vault_id ORDER BY turn_id LIMIT :limit)
"""
ERASE_METADATA = """
DELETE FROM session_metadata WHERE vault_id = :vault_id AND (key, value, session_id) IN (
    SELECT key, value, session_id FROM session_metadata WHERE vault_id = :vault_id LIMIT :limit)
"""
LIST_SIZED_SESSIONS = """
SELECT session_id AS id, octet_length(title) + octet_length(system_prompt) + octet_length(metadata) AS size
FROM sessions WHERE vault_id = :vault_id ORDER BY session_id LIMIT :limit
"""
ERASE_SESSIONS = """
DELETE FROM sessions WHERE vault_id = :vault_id AND session_id IN (
    SELECT session_id FROM sessions WHERE vault_id = :vault_id ORDER BY session_id LIMIT :limit)
"""
ERASE_VERSIONS = """
DELETE FROM secret_versions WHERE vault_id = :vault_id AND (name, version) IN (
    SELECT name, version FROM secret_versions WHERE vault_id = :vault_id LIMIT :limit)
"""
# Destroyed with the deletion. There are none.
ERASE_KEYS = """
DELETE FROM data_keys WHERE vault_id = :vault_id AND data_key_id IN (
    SELECT data_key_id FROM data_keys WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_SECRETS = """
DELETE FROM secrets WHERE vault_id = :vault_id AND name IN (
    SELECT name FROM secrets WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_USAGE = """
DELETE FROM usage WHERE vault_id = :vault_id AND (day, session_id, model) IN (
    SELECT day, session_id, model FROM usage WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_DAILY_USAGE = """
DELETE FROM daily_usage WHERE vault_id = :vault_id AND (day, model) IN (
    SELECT day, model FROM daily_usage WHERE vault_id = :vault_id LIMIT :limit)
"""
ERASE_SUBJECT_USAGE = """
DELETE FROM subject_usage WHERE vault_id = :vault_id AND (kind, subject, day, model) IN (
    SELECT kind, subject, day, model FROM subject_usage WHERE vault_id = :vault_id LIMIT :limit)
"""
# At most 201. The operator's stay, as the vault's limits do.
ERASE_OWN_BUDGETS = "DELETE FROM subject_budgets WHERE vault_id = :vault_id AND set_by = 'vault'"
ERASE_OPERATIONS = "DELETE FROM operations WHERE vault_id = :vault_id AND operation_id <> :operation_id"
ERASE_VAULT = "DELETE FROM vaults WHERE vault_id = :vault_id"
# What is left of what counts towards the vault's storage.
COUNT_ERASED_BYTES = """
UPDATE operations
SET done_count = total_count - COALESCE((SELECT stored_bytes FROM vaults WHERE vault_id = :vault_id), 0)
WHERE vault_id = :vault_id AND operation_id = :operation_id AND end_time IS NULL
"""
END_ERASING = """
UPDATE operations SET done_count = total_count, end_time = :now
WHERE vault_id = :vault_id AND operation_id = :operation_id AND end_time IS NULL
"""
FIND_ERASING = """
SELECT vault_id, operation_id FROM operations
WHERE end_time IS NULL AND kind = :kind AND vault_id > :after
ORDER BY vault_id, operation_id
LIMIT 1
"""


async def find_vault_to_erase(tx: SystemTransaction, *, after: str) -> tuple[str, str] | None:
    """Returns the first vault with an ID above `after` that is being erased, and the operation that does it."""
    row = await tx.one(FIND_ERASING, kind=OperationKind.ERASE_VAULT, after=after)
    return None if row is None else (row.vault_id, row.operation_id)


async def erase_vault_step(tx: Transaction, *, operation_id: str, now: int) -> bool:
    """Erases a part of a deleted vault, and at the end its row. Returns whether there may be more.

    The operation has how far it is, and ends with it. Erases nothing of a vault that is not deleted, or not any more.
    """
    # Whoever is slow must not erase what the next one with the ID has stored.
    if (await get_vault_status(tx)).state is not VaultState.DELETED:
        return False
    if await _erase_some(tx, operation_id):
        await tx.run(COUNT_ERASED_BYTES, operation_id=operation_id)
        return True
    await tx.run(ERASE_VAULT)
    await tx.run(END_ERASING, operation_id=operation_id, now=now)
    return False


async def _erase_some(tx: Transaction, operation_id: str) -> bool:
    """Erases rows of the first table that has some. Returns whether there may be more."""
    return bool(
        await tx.run(ERASE_QUEUE, limit=STEP_ROWS)
        or await tx.run(ERASE_STAGED, limit=STEP_ROWS)
        or await tx.run(ERASE_IMPORT)
        or await tx.run(ERASE_REQUESTS, limit=STEP_ROWS)
        or await tx.run(ERASE_INDEXED, limit=STEP_ROWS)
        or await tx.run(ERASE_POSTINGS, limit=STEP_ROWS)
        or await tx.run(ERASE_EVENTS, limit=STEP_ROWS)
        or await tx.run(ERASE_USES, limit=STEP_ROWS)
        or await tx.run(ERASE_CHUNKS)
        or await tx.run(ERASE_ATTACHMENTS, limit=STEP_ROWS)
        or await tx.run(ERASE_LINKED, limit=_within(await tx.all(LIST_SIZED_MESSAGES, limit=STEP_SIZED_ROWS)))
        or await tx.run(ERASE_UNLINKED, limit=STEP_VALUES)
        or await tx.run(ERASE_MEMORIES, limit=_within(await tx.all(LIST_SIZED_MEMORIES, limit=STEP_SIZED_ROWS)))
        or await tx.run(ERASE_TURNS, limit=_within(await tx.all(LIST_SIZED_TURNS, limit=STEP_SIZED_ROWS)))
        or await tx.run(ERASE_METADATA, limit=STEP_ROWS)
        or await tx.run(ERASE_SESSIONS, limit=_within(await tx.all(LIST_SIZED_SESSIONS, limit=STEP_SIZED_ROWS)))
        or await tx.run(ERASE_VERSIONS, limit=STEP_VALUES)
        or await tx.run(ERASE_SECRETS, limit=STEP_ROWS)
        or await tx.run(ERASE_KEYS, limit=STEP_ROWS)
        or await tx.run(ERASE_USAGE, limit=STEP_ROWS)
        or await tx.run(ERASE_DAILY_USAGE, limit=STEP_ROWS)
        or await tx.run(ERASE_SUBJECT_USAGE, limit=STEP_ROWS)
        or await tx.run(ERASE_OWN_BUDGETS)
        or await tx.run(ERASE_OPERATIONS, operation_id=operation_id)
        # What verifies the log finds that the server has deleted them.
        or await erase_entries(tx, limit=STEP_ROWS)
    )


def _within(rows: Sequence[Row]) -> int:
    """Returns how many of the first rows have STEP_BYTES at most, or 1 if the first one has more."""
    size = 0
    for count, row in enumerate(rows):
        size += row.size
        if count and size > STEP_BYTES:
            return count
    return len(rows)
