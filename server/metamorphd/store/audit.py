"""The logs of vaults as an audit reads them, and what is recorded for it beside changes."""

from collections.abc import Iterable, Mapping

import orjson

from metamorphd.models.audit import AuditEvent, AuditFilter
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.page import Page
from metamorphd.store.changes import RESOURCES, VERBS, append_change, get_revision
from metamorphd.store.database import Row, Transaction, concludes

# How many entries a page may look at.
VISITED_ENTRIES = 5_000
# Times are those of calls, which are a little out of order, and a clock may be set.
OUT_OF_ORDER = 3_600_000_000
BEGINNING_OF_TIME, END_OF_TIME = -(2**63), 2**63 - 1

GET_OLDEST = "SELECT revision FROM changes WHERE vault_id = :vault_id ORDER BY revision LIMIT 1"
GET_TIME = "SELECT change_time FROM changes WHERE vault_id = :vault_id AND revision = :revision"
LIST_AUDIT_EVENTS = """
SELECT revision, change_time, actor, operator, call_id, resource, resource_id, verb, detail, key_id, mac FROM changes
WHERE vault_id = :vault_id AND revision < :before AND revision >= :first
    AND change_time >= :start_time AND change_time < :end_time
    AND (:actor IS NULL OR (actor = :actor AND operator = 0))
    AND (:resource_id IS NULL OR resource_id = :resource_id)
    AND (:resources = '' OR :resources LIKE '% ' || resource || ' %')
    AND (:verbs = '' OR :verbs LIKE '% ' || verb || ' %')
ORDER BY revision DESC
LIMIT :limit
"""


@concludes
async def record_event(
    tx: Transaction,
    *,
    resource: ChangedResource,
    resource_id: str,
    verb: ChangeVerb,
    details: Mapping[str, str] | None,
    now: int,
) -> int:
    """Appends what is no change of the vault to its log, also of a suspended one, and returns the new revision."""
    return await append_change(tx, resource=resource, resource_id=resource_id, verb=verb, details=details, now=now)


async def list_audit_events(
    tx: Transaction, *, wanted: AuditFilter, before: int | None, page_size: int
) -> Page[AuditEvent]:
    """Returns entries, newest first, from the last one before the revision `before`, or from the newest.

    It looks at no more than VISITED_ENTRIES, so that a page may be short, or empty, and not be the last.
    """
    kept = await tx.one(GET_OLDEST)
    oldest = 1 if kept is None else int(kept.revision)
    end = 1 + await get_revision(tx)
    if before is not None:
        end = min(end, before)
    if wanted.end_time is not None:
        end = await _first_since(tx, oldest, end, time=wanted.end_time + OUT_OF_ORDER)
    if wanted.start_time is not None:
        oldest = await _first_since(tx, oldest, end, time=wanted.start_time - OUT_OF_ORDER)
    first = max(oldest, end - VISITED_ENTRIES)
    rows = await tx.all(
        LIST_AUDIT_EVENTS,
        before=end,
        first=first,
        start_time=BEGINNING_OF_TIME if wanted.start_time is None else wanted.start_time,
        end_time=END_OF_TIME if wanted.end_time is None else wanted.end_time,
        actor=wanted.actor,
        resource_id=wanted.resource_id,
        resources=_listed(wanted.resources),
        verbs=_listed(wanted.verbs),
        limit=page_size,
    )
    visited = rows[-1].revision if len(rows) == page_size else first
    return Page(tuple(map(_event, rows)), (visited,) if visited > oldest else None)


async def _first_since(tx: Transaction, first: int, end: int, *, time: int) -> int:
    """Returns the first revision from `first` on whose entry was made at a time or later, or `end` if there is none."""
    while first < end:
        middle = (first + end) // 2
        row = await tx.one(GET_TIME, revision=middle)
        if row is not None and row.change_time >= time:
            end = middle
        else:
            first = middle + 1
    return first


def _listed(names: Iterable[str]) -> str:
    """Returns names between spaces, none of which has one, and nothing for none."""
    joined = " ".join(sorted(names))
    return f" {joined} " if joined else ""


def _event(row: Row) -> AuditEvent:
    return AuditEvent(
        revision=row.revision,
        event_time=row.change_time,
        actor=row.actor,
        operator=bool(row.operator),
        call_id=row.call_id,
        resource=RESOURCES[row.resource],
        resource_id=row.resource_id,
        verb=VERBS[row.verb],
        details=orjson.loads(row.detail) if row.detail else {},
        key_id=row.key_id,
        mac=row.mac,
    )
