"""The queue of hidden resources that are not erased yet."""

from dataclasses import dataclass
from enum import StrEnum

from metamorphd.store.database import SystemTransaction, Transaction

QUEUE_ERASURE = """
INSERT INTO erasures (vault_id, due_time, resource, id, delete_time)
VALUES (:vault_id, :due_time, :resource, :id, :delete_time)
ON CONFLICT (vault_id, due_time, resource, id) DO NOTHING
"""
END_ERASURE = """
DELETE FROM erasures WHERE vault_id = :vault_id AND due_time = :due_time AND resource = :resource AND id = :id
"""
FIND_ERASURE = """
SELECT vault_id, due_time, resource, id, delete_time FROM erasures
WHERE due_time <= :now AND vault_id = (
    SELECT vault_id FROM erasures WHERE vault_id > :after AND due_time <= :now ORDER BY vault_id, due_time LIMIT 1
)
ORDER BY vault_id, due_time, resource, id
LIMIT 1
"""
GET_BACKLOG = """
SELECT COUNT(*) AS resources, COALESCE(SUM(sessions.message_count), 0) AS messages,
    MIN(waiting.delete_time) AS oldest_delete_time
FROM (
    SELECT vault_id, resource, id, delete_time FROM erasures ORDER BY vault_id, due_time, resource, id LIMIT :limit
) AS waiting
LEFT JOIN sessions
    ON waiting.resource = 'session' AND sessions.vault_id = waiting.vault_id AND sessions.session_id = waiting.id
"""
MOST_COUNTED = 10_000


class Resource(StrEnum):
    """The kinds of what is erased."""

    SESSION = "session"
    MESSAGE = "message"
    ATTACHMENT = "attachment"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Erasure:
    """A hidden resource. `due_time` is when it was hidden, or when to try again after a failure."""

    vault_id: str
    due_time: int
    resource: Resource
    id: str
    delete_time: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts hidden resources that are not erased yet, the first 10,000 of them.

    `messages` are those of the sessions among the `resources`. `oldest_delete_time` is None if nothing is left.
    """

    resources: int = 0
    messages: int = 0
    oldest_delete_time: int | None = None


async def queue_erasure(tx: Transaction, *, resource: Resource, resource_id: str, now: int) -> None:
    """Has a resource erased that was just hidden."""
    await tx.run(QUEUE_ERASURE, resource=resource, id=resource_id, due_time=now, delete_time=now)


async def end_erasure(tx: Transaction, *, erasure: Erasure) -> None:
    """Removes what is erased from the queue."""
    await end_queued(tx, resource=erasure.resource, resource_id=erasure.id, due_time=erasure.due_time)


async def end_queued(tx: Transaction, *, resource: Resource, resource_id: str, due_time: int) -> None:
    """Removes a resource from the queue that it was put in for `due_time`, if it is there."""
    await tx.run(END_ERASURE, resource=resource, id=resource_id, due_time=due_time)


async def postpone_erasure(tx: Transaction, *, erasure: Erasure, until: int) -> None:
    """Lets others pass one that cannot be erased now."""
    await end_erasure(tx, erasure=erasure)
    await tx.run(
        QUEUE_ERASURE, resource=erasure.resource, id=erasure.id, due_time=until, delete_time=erasure.delete_time
    )


async def find_erasure(tx: SystemTransaction, *, after: str, now: int) -> Erasure | None:
    """Returns the first erasure that is due, of the first vault with an ID above `after` that has one."""
    row = await tx.one(FIND_ERASURE, after=after, now=now)
    return None if row is None else Erasure(row.vault_id, row.due_time, Resource(row.resource), row.id, row.delete_time)


async def get_backlog(tx: SystemTransaction) -> Backlog:
    """Returns what is left to be erased in all vaults."""
    row = await tx.one(GET_BACKLOG, limit=MOST_COUNTED)
    return Backlog() if row is None else Backlog(row.resources, row.messages, row.oldest_delete_time)
