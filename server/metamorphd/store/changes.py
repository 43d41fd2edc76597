"""The log of a vault: every operation that changes what its callers can read appends to it, in its own transaction.

So does what the audit needs besides: refusals, and what the operator does. See docs/decisions/0044 and 0051.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from metamorphd.chain import BEGINNING, Entry, Head
from metamorphd.errors import RevisionAhead, RevisionCompacted, RevisionReplaced
from metamorphd.models.change import AUDITED, Change, ChangedResource, Changes, ChangeVerb
from metamorphd.store.database import Operation, P, Row, Transaction, grows, is_growing, point_read

T = TypeVar("T")

# Two transactions that append to one vault at the same time conflict: see docs/decisions/0044. With ON CONFLICT, one is
# repeated where an engine has several writers; without, it would fail. A statement that also finds the revision, and
# returns it, takes twice as long as the two.
APPEND_CHANGE = """
INSERT INTO changes (vault_id, revision, change_time, actor, operator, call_id, resource, resource_id, verb, detail,
    key_id, mac)
VALUES (:vault_id, :revision, :change_time, :actor, :operator, :call_id, :resource, :resource_id, :verb, :detail,
    :key_id, :mac)
ON CONFLICT (vault_id, revision) DO NOTHING
"""
GET_HEAD = "SELECT revision, mac FROM changes WHERE vault_id = :vault_id ORDER BY revision DESC LIMIT 1"
GET_REVISION = "SELECT revision FROM changes WHERE vault_id = :vault_id ORDER BY revision DESC LIMIT 1"
IS_DELETED = "SELECT vault_id FROM vault_states WHERE vault_id = :vault_id AND state = 'deleted'"
GET_BOUNDS = """
SELECT 1 + COALESCE((SELECT compacted_revision FROM log_beginnings WHERE vault_id = :vault_id), 0) AS oldest_revision,
    (SELECT COALESCE(MAX(revision), 0) FROM changes WHERE vault_id = :vault_id) AS newest_revision,
    (SELECT hash_key FROM vaults WHERE vault_id = :vault_id) AS hash_key
"""
GET_CHANGE = """
SELECT revision, change_time, actor, operator, call_id, resource, resource_id, verb FROM changes
WHERE vault_id = :vault_id AND revision = :revision
"""
LIST_CHANGES = """
SELECT revision, change_time, actor, operator, call_id, resource, resource_id, verb FROM changes
WHERE vault_id = :vault_id AND revision > :after_revision AND revision <= :last_revision
ORDER BY revision
"""

# Looking up a member takes a third of the time that making it by name does.
RESOURCES = {resource.value: resource for resource in ChangedResource}
VERBS = {verb.value: verb for verb in ChangeVerb}

_revised: dict[Any, Any] = {}


async def append_change(
    tx: Transaction,
    *,
    resource: ChangedResource,
    resource_id: str,
    verb: ChangeVerb,
    now: int,
    details: Mapping[str, str] | None = None,
) -> int:
    """Appends an entry to the vault's log, and returns the vault's new revision. The scope says who made it.

    Those who watch the vault learn of it once the operation is committed. `details` are for the audit only.

    A vault that is deleted gets none but those of operators: they would outlive what is erased, with the names in them.
    What has begun before ends without one. The deletion's own operation has begun to append by then.
    """
    scope, chain = tx.scope, tx.chain
    if tx.head is None and not scope.operates and await tx.one(IS_DELETED) is not None:
        return await get_revision(tx)
    head = await _get_head(tx) if tx.head is None else tx.head
    entry = Entry(
        vault_id=scope.vault_id,
        revision=head.revision + 1,
        change_time=now,
        actor=scope.actor.user_id,
        operator=int(scope.operates),
        call_id=scope.call_id,
        resource=resource,
        resource_id=resource_id,
        verb=verb,
        detail="" if details is None else orjson.dumps(dict(details), option=orjson.OPT_SORT_KEYS).decode(),
    )
    mac = chain.link(head.mac, entry)
    if not await tx.run(APPEND_CHANGE, **entry._asdict(), key_id=chain.key_id, mac=mac):
        raise RuntimeError("a revision is taken")
    tx.head = Head(entry.revision, mac)
    return entry.revision


async def _get_head(tx: Transaction) -> Head:
    row = await tx.one(GET_HEAD)
    return BEGINNING if row is None else Head(row.revision, row.mac)


def revised(operation: Operation[P, T]) -> Operation[P, tuple[T, int]]:
    """Returns an operation that returns the vault's revision too: that of its last change, or of an earlier one."""
    if operation not in _revised:

        async def run(tx: Transaction, *args: P.args, **kwargs: P.kwargs) -> tuple[T, int]:
            result = await operation(tx, *args, **kwargs)
            return result, await get_revision(tx) if tx.head is None else tx.head.revision

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


async def find_place(tx: Transaction, *, after_revision: int | None, after_mark: str) -> Changes:
    """Returns no changes after a revision, or after the newest one, with the mark that it has.

    Raises RevisionAhead, and if there is an `after_mark` RevisionReplaced, or RevisionCompacted if its entry is gone.
    """
    bounds = await get_bounds(tx)
    revision = bounds.newest_revision if after_revision is None else after_revision
    if revision > bounds.newest_revision:
        raise RevisionAhead(newest_revision=bounds.newest_revision)
    row = await tx.one(GET_CHANGE, revision=revision)
    mark = "" if row is None else _mark(row, bounds.hash_key)
    if after_mark and row is None:
        raise RevisionCompacted(oldest_revision=bounds.oldest_revision)
    if after_mark and after_mark != mark:
        raise RevisionReplaced(revision=revision)
    return Changes(revision, (), revision, bounds.newest_revision, mark)


async def list_changes(tx: Transaction, *, after_revision: int, limit: int) -> Changes:
    """Returns the changes among the next `limit` entries after a revision. Raises RevisionAhead, RevisionCompacted."""
    bounds = await get_bounds(tx)
    if after_revision > bounds.newest_revision:
        raise RevisionAhead(newest_revision=bounds.newest_revision)
    if after_revision + 1 < bounds.oldest_revision:
        raise RevisionCompacted(oldest_revision=bounds.oldest_revision)
    last = min(after_revision + limit, bounds.newest_revision)
    rows = await tx.all(LIST_CHANGES, after_revision=after_revision, last_revision=last)
    shown = tuple(_change(row) for row in rows if RESOURCES[row.resource] not in AUDITED)
    mark = _mark(rows[-1], bounds.hash_key) if rows else ""
    return Changes(after_revision, shown, last, bounds.newest_revision, mark)


def _mark(row: Row, key: bytes | None) -> str:
    """Returns the mark of an entry, which reveals nothing of one that is not shown; none while there is no vault.

    Without its key, who has made the entry could be guessed.
    """
    if key is None:
        return ""
    who = (row.actor, row.operator, row.call_id)
    entry = orjson.dumps((row.revision, row.change_time, *who, row.resource, row.resource_id, row.verb))
    return hmac.digest(key, b"metamorph mark\0" + entry, hashlib.sha256).hex()[:32]


def _change(row: Row) -> Change:
    return Change(
        revision=row.revision,
        change_time=row.change_time,
        # An operator is a user of another vault, or of none.
        actor="" if row.operator else row.actor,
        call_id=row.call_id,
        resource=RESOURCES[row.resource],
        resource_id=row.resource_id,
        verb=VERBS[row.verb],
    )


async def get_bounds(tx: Transaction) -> Row:
    """Returns `oldest_revision`, the first that watchers are shown, and `newest_revision`, 0 if there is none.

    Also the vault's `hash_key`, None if there is no vault.
    """
    bounds = await tx.one(GET_BOUNDS)
    if bounds is None:
        raise RuntimeError("a statement without a table returned no row")
    return bounds
