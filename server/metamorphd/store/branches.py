"""Branches of messages, as far as a prompt can need them."""

from collections.abc import Iterator

from metamorphd.models.message import Branch, BranchMessage, Role
from metamorphd.store.codec import decode_content
from metamorphd.store.database import Row, SqlValue, Transaction

# What a prompt can need of a branch: up to the last summary and the message that opens it, or to the model's context.
PROMPT_BRANCH = """
WITH RECURSIVE branch (id, parent_id, depth, bytes, size, summarized, opens) AS (
    SELECT message_id, parent_message_id, depth, size, size, summarizes, opens FROM message_links
    WHERE vault_id = :vault_id AND message_id = :leaf_message_id AND session_id = :session_id
    UNION ALL
    SELECT link.message_id, link.parent_message_id, link.depth, branch.bytes + link.size, link.size,
        CASE WHEN link.summarizes = 1 THEN 1 ELSE branch.summarized END, link.opens
    FROM branch CROSS JOIN message_links AS link
    WHERE link.vault_id = :vault_id AND link.message_id = branch.parent_id
        AND branch.bytes <= :max_bytes AND (branch.summarized = 0 OR branch.opens = 0)
)"""
MEASURE_BRANCH = PROMPT_BRANCH + " SELECT COALESCE(SUM(size), 0) AS bytes FROM branch"
GET_BRANCH = (
    PROMPT_BRANCH
    + """
SELECT role, CASE WHEN delete_time IS NULL THEN content ELSE '[]' END AS content, branch.depth, branch.id,
    refused, rejected
FROM branch CROSS JOIN messages
WHERE messages.vault_id = :vault_id AND messages.message_id = branch.id
"""
)

# Looking up a role takes a third of the time that making it by name does.
ROLES: dict[str, Role] = {role.value: role for role in Role}


async def get_branch(
    tx: Transaction, *, session_id: str, leaf_message_id: str, max_bytes: int, read_bytes: int | None = None
) -> Branch:
    """Returns the messages of a branch that a prompt can need, oldest first, ending with `leaf_message_id`.

    They begin at the message that opens the last summary, at the one that brings them above `max_bytes`, or at the
    root. A message that was cut off is the parent of the first one. Of more than `read_bytes` only the size is read.
    """
    branch: dict[str, SqlValue] = {
        "session_id": session_id,
        "leaf_message_id": leaf_message_id,
        "max_bytes": max_bytes,
    }
    measured = await tx.one(MEASURE_BRANCH, **branch)
    size = 0 if measured is None else measured.bytes
    if read_bytes is not None and size > read_bytes:
        return Branch(size, None)
    rows = await tx.all(GET_BRANCH, **branch)
    rows.sort(key=lambda row: row.depth, reverse=True)
    return Branch(size, _decoded(rows))


def _decoded(rows: list[Row]) -> Iterator[BranchMessage]:
    """Yields the messages of rows, the last one first. Later, because to decode thousands would prolong the snapshot.

    Each row is dropped when it is decoded, because together they may be of megabytes.
    """
    while rows:
        row = rows.pop()
        yield BranchMessage(
            row.id,
            ROLES[row.role],
            decode_content(row.content),
            is_root=row.depth == 1,
            refused=bool(row.refused),
            rejected=bool(row.rejected),
        )
