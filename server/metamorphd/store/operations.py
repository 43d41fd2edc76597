"""Operations: long work, as it is seen from outside."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import orjson

from metamorphd.errors import OperationNotFound, TooManyOperations
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.operation import Failure, Operation, OperationKind, Progress
from metamorphd.models.page import Page
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction, concludes, point_read

# Of a vault. So many may go on at a time, and so many are kept.
MOST_RUNNING = 8
MOST_KEPT = 100
# Above every ID, so that the first page begins with the newest.
LAST_ID = "~"
# The reason for which a cancelled one did not succeed.
CANCELLED = "OPERATION_CANCELLED"

COLUMNS = """operation_id, vault_id, kind, target, creator, unit, done_count, total_count, create_time, end_time,
    reason, message, counts"""

CREATE_OPERATION = """
INSERT INTO operations (vault_id, operation_id, kind, target, creator, unit, done_count, total_count, create_time,
    counts)
VALUES (:vault_id, :operation_id, :kind, :target, :creator, :unit, :done_count, :total_count, :create_time, '{}')
"""
COUNT_RUNNING_OPERATIONS = "SELECT COUNT(*) AS running FROM operations WHERE vault_id = :vault_id AND end_time IS NULL"
DELETE_OLDEST_OPERATIONS = """
DELETE FROM operations
WHERE vault_id = :vault_id AND end_time IS NOT NULL AND operation_id <= (
    SELECT operation_id FROM operations WHERE vault_id = :vault_id ORDER BY operation_id DESC LIMIT 1 OFFSET :kept
)
"""
SET_COUNTS = "UPDATE operations SET counts = :counts WHERE vault_id = :vault_id AND operation_id = :operation_id"
END_OPERATION = """
UPDATE operations SET done_count = :done_count, total_count = :total_count, end_time = :now, reason = :reason,
    message = :message, counts = :counts
WHERE vault_id = :vault_id AND operation_id = :operation_id AND end_time IS NULL
"""
GET_OPERATION = f"SELECT {COLUMNS} FROM operations WHERE vault_id = :vault_id AND operation_id = :operation_id"
LIST_OPERATIONS = f"""
SELECT {COLUMNS} FROM operations
WHERE vault_id = :vault_id AND operation_id < :after
ORDER BY operation_id DESC
LIMIT :limit
"""
FIND_RUNNING_OPERATION = f"""
SELECT {COLUMNS} FROM operations
WHERE vault_id = :vault_id AND end_time IS NULL AND kind = :kind
ORDER BY operation_id
LIMIT 1
"""
LIST_ALL_OPERATIONS = (
    f"SELECT {COLUMNS} FROM operations WHERE operation_id < :after ORDER BY operation_id DESC LIMIT :limit"
)
# An import has the ID of its operation.
LIST_RUNNING = f"""
SELECT {COLUMNS} FROM operations
WHERE end_time IS NULL AND (vault_id, operation_id) > (:after_vault_id, :after_operation_id) AND NOT EXISTS (
    SELECT 1 FROM imports
    WHERE imports.vault_id = operations.vault_id AND import_id = operation_id AND state = 'revealing')
ORDER BY vault_id, operation_id
LIMIT :limit
"""
PRUNE_OPERATIONS = """
DELETE FROM operations WHERE (vault_id, operation_id) IN (
    SELECT vault_id, operation_id FROM operations WHERE end_time < :before ORDER BY end_time LIMIT :limit
)
"""


async def begin_operation(tx: Transaction, *, operation: Operation, limited: bool = True) -> Operation:
    """Stores an operation that begins, for the scope's vault and actor. Raises TooManyOperations if `limited`.

    Of those that have ended, the oldest are forgotten if there are more than MOST_KEPT.
    """
    running = await tx.one(COUNT_RUNNING_OPERATIONS)
    if limited and running is not None and running.running >= MOST_RUNNING:
        raise TooManyOperations(limit=MOST_RUNNING, retry_delay=60.0)
    await tx.run(
        CREATE_OPERATION,
        operation_id=operation.operation_id,
        kind=operation.kind,
        target=operation.target,
        creator=operation.creator,
        unit=operation.progress.unit,
        done_count=operation.progress.done,
        total_count=operation.progress.total,
        create_time=operation.create_time,
    )
    await tx.run(DELETE_OLDEST_OPERATIONS, kept=MOST_KEPT)
    await _append(tx, operation.operation_id, ChangeVerb.STARTED, operation.create_time)
    return await get_operation(tx, operation_id=operation.operation_id)


@concludes
async def end_operation(
    tx: Transaction,
    *,
    operation_id: str,
    progress: Progress,
    failure: Failure | None = None,
    counts: Mapping[str, int] | None = None,
    now: int,
) -> None:
    """Stores the end of an operation, unless it has ended. It succeeded if `failure` is None."""
    ended = await tx.run(
        END_OPERATION,
        operation_id=operation_id,
        done_count=progress.done,
        total_count=progress.total,
        reason=None if failure is None else failure.reason,
        message=None if failure is None else failure.message,
        counts=orjson.dumps(dict(counts or {})).decode(),
        now=now,
    )
    if ended:
        await _append(tx, operation_id, _verb(failure), now)


async def add_counts(tx: Transaction, *, operation_id: str, counts: Mapping[str, int]) -> None:
    """Adds to the result of an operation that goes on, unless it is unknown."""
    row = await tx.one(GET_OPERATION, operation_id=operation_id) if counts else None
    if row is not None:
        added = Counter(orjson.loads(row.counts))
        added.update(counts)
        await tx.run(SET_COUNTS, operation_id=operation_id, counts=orjson.dumps(added).decode())


async def complete_operation(tx: Transaction, *, operation_id: str, now: int) -> None:
    """Stores that an operation which has its result has succeeded, unless it is unknown or has ended."""
    row = await tx.one(GET_OPERATION, operation_id=operation_id)
    if row is not None:
        known = _operation(row)
        progress = replace(known.progress, done=known.progress.total)
        await end_operation(tx, operation_id=operation_id, progress=progress, counts=known.counts, now=now)


def _verb(failure: Failure | None) -> ChangeVerb:
    if failure is None:
        return ChangeVerb.COMPLETED
    return ChangeVerb.CANCELLED if failure.reason == CANCELLED else ChangeVerb.FAILED


async def _append(tx: Transaction, operation_id: str, verb: ChangeVerb, now: int) -> None:
    # The server itself has no log.
    if tx.scope.vault_id:
        await append_change(tx, resource=ChangedResource.OPERATION, resource_id=operation_id, verb=verb, now=now)


@point_read
async def get_operation(tx: Transaction, *, operation_id: str) -> Operation:
    """Returns an operation of the vault. Raises OperationNotFound."""
    row = await tx.one(GET_OPERATION, operation_id=operation_id)
    if row is None:
        raise OperationNotFound(operation_id=operation_id)
    return _operation(row)


async def list_operations(tx: Transaction, *, after: str, page_size: int) -> Page[Operation]:
    """Returns operations of the vault, newest first, from the one before `after` on."""
    return _page(await tx.all(LIST_OPERATIONS, after=after, limit=page_size + 1), page_size)


async def find_running_operation(tx: Transaction, *, kind: OperationKind) -> Operation | None:
    """Returns the oldest operation of the vault of this kind that goes on, or None."""
    row = await tx.one(FIND_RUNNING_OPERATION, kind=kind)
    return None if row is None else _operation(row)


async def list_all_operations(tx: SystemTransaction, *, after: str, page_size: int) -> Page[Operation]:
    """Returns operations of all vaults and of the server, newest first, from the one before `after` on."""
    return _page(await tx.all(LIST_ALL_OPERATIONS, after=after, limit=page_size + 1), page_size)


async def list_running_operations(tx: SystemTransaction, *, after: tuple[str, str], limit: int) -> list[Operation]:
    """Returns operations of all vaults that go on, in the order of (vault, ID), from the first one after `after`.

    Imports that are decided are left out: whatever becomes of their server, they end with what they reveal last.
    """
    rows = await tx.all(LIST_RUNNING, after_vault_id=after[0], after_operation_id=after[1], limit=limit)
    return list(map(_operation, rows))


async def prune_operations(tx: SystemTransaction, *, before: int, limit: int) -> int:
    """Deletes operations that ended before a time, at most `limit`, the first to end first. Returns how many."""
    return await tx.run(PRUNE_OPERATIONS, before=before, limit=limit)


def _page(rows: list[Row], page_size: int) -> Page[Operation]:
    shown = rows[:page_size]
    return Page(tuple(map(_operation, shown)), (shown[-1].operation_id,) if len(rows) > page_size else None)


def _operation(row: Row) -> Operation:
    return Operation(
        operation_id=row.operation_id,
        vault_id=row.vault_id,
        kind=OperationKind(row.kind),
        target=row.target,
        creator=row.creator,
        progress=Progress(row.done_count, row.total_count, row.unit),
        create_time=row.create_time,
        end_time=row.end_time,
        failure=None if row.reason is None else Failure(row.reason, row.message),
        counts=orjson.loads(row.counts),
    )
