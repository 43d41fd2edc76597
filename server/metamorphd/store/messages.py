"""Messages."""

from dataclasses import asdict, fields

from metamorphd.errors import BranchBusy, MessageNotFound, SessionNotFound
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.content import text_of
from metamorphd.models.message import Message, Role
from metamorphd.models.page import Page
from metamorphd.models.usage import Usage
from metamorphd.store.attachments import release_message, use_attachments
from metamorphd.store.changes import append_change
from metamorphd.store.codec import decode_content, decode_usage, encode_content
from metamorphd.store.database import Row, Transaction, point_read
from metamorphd.store.erasures import Resource, queue_erasure
from metamorphd.store.links import clear_link, create_link, find_ancestor, unlink_summary
from metamorphd.store.paging import page_of
from metamorphd.store.search.postings import index_message
from metamorphd.store.vaults import lock_vault

COLUMNS = """
    message_id, session_id, parent_message_id, role,
    CASE WHEN delete_time IS NULL THEN content ELSE '[]' END AS content, turn_id, creator, model,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    COALESCE(cost_usd_nanos, 0) AS cost_usd_nanos, estimated,
    create_time, delete_time, partial
"""

# A message's ordinal and the session's counters move in one transaction, so ordinals are dense and unique.
COUNT_MESSAGE = """
UPDATE sessions
SET message_count = message_count + 1, current_leaf_message_id = :message_id,
    last_message_time = :now, last_activity_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time IS NULL
RETURNING message_count
"""
CREATE_MESSAGE = """
INSERT INTO messages (vault_id, message_id, session_id, ordinal, parent_message_id, role, content, size, turn_id,
    creator, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated,
    create_time, partial, refused)
VALUES (:vault_id, :message_id, :session_id, :ordinal, :parent_message_id, :role, :content, :size, :turn_id,
    :creator, :model, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens, :cost_usd_nanos,
    :estimated, :create_time, :partial, :refused)
"""
GET_MESSAGE = (
    "SELECT "
    + COLUMNS
    + """
FROM messages
WHERE vault_id = :vault_id AND message_id = :message_id AND EXISTS (
    SELECT 1 FROM sessions
    WHERE sessions.vault_id = :vault_id AND sessions.session_id = messages.session_id AND sessions.delete_time IS NULL)
"""
)
GET_ANSWERING = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id AND status = 'RUNNING' AND user_message_id = :message_id
LIMIT 1
"""
# Its content is erased in steps, because the index is by its words.
HIDE_CONTENT = """
UPDATE messages SET delete_time = :now
WHERE vault_id = :vault_id AND message_id = :message_id AND delete_time IS NULL
"""
REJECT_MESSAGE = "UPDATE messages SET rejected = 1 WHERE vault_id = :vault_id AND message_id = :message_id"
# As those that have expired: they are read no more, and deleted in steps.
EXPIRE_EVENTS = "UPDATE turns SET pruned = 1 WHERE vault_id = :vault_id AND turn_id = :turn_id AND pruned = 0"
GET_LEAF = """
SELECT current_leaf_message_id FROM sessions
WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time IS NULL
"""
# Of the candidates, a page ends before the first beyond :max_size bytes, and before one with which it would have twice
# as many; `candidate_count` counts what would follow. Beside its content, a message counts as 512 bytes.
_PAGE = (
    """, page AS (
    SELECT id, place, SUM(bytes + 512) OVER (ORDER BY place) AS total, bytes + 512 AS added,
        COUNT(*) OVER () AS candidate_count
    FROM candidates
)
SELECT """
    + COLUMNS
    + """, place, candidate_count
FROM page CROSS JOIN messages
WHERE messages.vault_id = :vault_id AND messages.message_id = page.id
    AND total - added < :max_size AND (total = added OR total <= 2 * :max_size)
ORDER BY place
"""
)
# Up from :top_message_id, as long as it is deeper than :above_depth.
LIST_BRANCH = (
    """
WITH RECURSIVE branch (id, parent_id, depth, bytes) AS (
    SELECT message_id, parent_message_id, depth, size FROM message_links
    WHERE vault_id = :vault_id AND message_id = :lowest_message_id AND depth > :above_depth
    UNION ALL
    SELECT link.message_id, link.parent_message_id, link.depth, link.size
    FROM branch CROSS JOIN message_links AS link
    WHERE link.vault_id = :vault_id AND link.message_id = branch.parent_id AND link.depth > :above_depth
), candidates AS (
    SELECT id, depth * :direction AS place, bytes FROM branch
)"""
    + _PAGE
)
LIST_OLDEST_FIRST = (
    """
WITH candidates AS (
    SELECT messages.message_id AS id, ordinal AS place, link.size AS bytes
    FROM messages CROSS JOIN message_links AS link
    WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id AND ordinal > :after
        AND link.vault_id = :vault_id AND link.message_id = messages.message_id
    ORDER BY ordinal
    LIMIT :page_size + 1
)"""
    + _PAGE
)
LIST_NEWEST_FIRST = (
    """
WITH candidates AS (
    SELECT messages.message_id AS id, -ordinal AS place, link.size AS bytes
    FROM messages CROSS JOIN message_links AS link
    WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id AND ordinal < -:after
        AND link.vault_id = :vault_id AND link.message_id = messages.message_id
    ORDER BY ordinal DESC
    LIMIT :page_size + 1
)"""
    + _PAGE
)

# Below every place, an ordinal or a depth, and every negated one.
START = -(2**62)

USAGE = [field.name for field in fields(Usage)]


def _message(row: Row) -> Message:
    return Message(
        message_id=row.message_id,
        session_id=row.session_id,
        parent_message_id=row.parent_message_id,
        role=Role(row.role),
        content=decode_content(row.content),
        turn_id=row.turn_id,
        creator=row.creator,
        model=row.model,
        usage=None if row.input_tokens is None else decode_usage(row),
        create_time=row.create_time,
        delete_time=row.delete_time,
        partial=bool(row.partial),
    )


async def create_message(tx: Transaction, *, message: Message) -> None:
    """Appends a message, which becomes the session's current leaf. Raises SessionNotFound.

    The attachments that it holds are there.
    """
    counted = await tx.one(
        COUNT_MESSAGE, session_id=message.session_id, message_id=message.message_id, now=message.create_time
    )
    if counted is None:
        raise SessionNotFound(session_id=message.session_id)
    content = encode_content(message.content)
    size = len(content.encode())
    await tx.run(
        CREATE_MESSAGE,
        message_id=message.message_id,
        session_id=message.session_id,
        ordinal=counted.message_count,
        parent_message_id=message.parent_message_id,
        role=message.role,
        content=content,
        size=size,
        turn_id=message.turn_id,
        creator=message.creator,
        model=message.model,
        create_time=message.create_time,
        partial=message.partial,
        refused=message.refused,
        **(dict.fromkeys(USAGE) if message.usage is None else asdict(message.usage)),
    )
    await create_link(tx, message=message, size=size)
    await use_attachments(tx, session_id=message.session_id, message_id=message.message_id, content=message.content)
    await index_message(tx, session_id=message.session_id, message_id=message.message_id, text=text_of(message.content))
    await _append(tx, message.message_id, ChangeVerb.CREATED, message.create_time)


async def _append(tx: Transaction, message_id: str, verb: ChangeVerb, now: int) -> None:
    await append_change(tx, resource=ChangedResource.MESSAGE, resource_id=message_id, verb=verb, now=now)


@point_read
async def get_message(tx: Transaction, *, message_id: str) -> Message:
    """Reads one message. Raises MessageNotFound."""
    row = await tx.one(GET_MESSAGE, message_id=message_id)
    if row is None:
        raise MessageNotFound(message_id=message_id)
    return _message(row)


async def delete_message(tx: Transaction, *, message_id: str, now: int) -> Message:
    """Hides a message's content, attachments that no other message holds too, and of a reply its turn's events.

    They are erased later. Raises MessageNotFound, and BranchBusy if it is being answered, from the content that was to
    be deleted.
    """
    await lock_vault(tx)
    message = await get_message(tx, message_id=message_id)
    answering = await tx.one(GET_ANSWERING, session_id=message.session_id, message_id=message_id)
    if answering is not None:
        raise BranchBusy(turn_id=answering.turn_id)
    if not await tx.run(HIDE_CONTENT, message_id=message_id, now=now):
        return message
    await clear_link(tx, message_id=message_id)
    await release_message(tx, session_id=message.session_id, message_id=message_id, now=now)
    await queue_erasure(tx, resource=Resource.MESSAGE, resource_id=message_id, now=now)
    if message.role is Role.ASSISTANT:
        await tx.run(EXPIRE_EVENTS, turn_id=message.turn_id)
    await _append(tx, message_id, ChangeVerb.DELETED, now)
    return await get_message(tx, message_id=message_id)


async def reject_message(tx: Transaction, *, message_id: str) -> None:
    """Keeps the content of a message out of later prompts, and its summary from standing for what precedes it."""
    await tx.run(REJECT_MESSAGE, message_id=message_id)
    await unlink_summary(tx, message_id=message_id)


async def list_messages(
    tx: Transaction,
    *,
    session_id: str,
    leaf_message_id: str | None,
    all_branches: bool,
    newest_first: bool,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
) -> Page[Message]:
    """One branch, that of the session's current leaf unless `leaf_message_id` names another, or all of them.

    `after` is (leaf message id, place): later pages read the branch that the first page read. Pages are cut as those
    of `list_sessions`. Raises SessionNotFound, MessageNotFound for a leaf that is not the session's.
    """
    session = await tx.one(GET_LEAF, session_id=session_id)
    if session is None:
        raise SessionNotFound(session_id=session_id)
    paged_leaf, place = after or ("", START)
    selected = str(paged_leaf) or leaf_message_id or session.current_leaf_message_id
    if leaf_message_id is not None:
        message = await get_message(tx, message_id=leaf_message_id)
        if message.session_id != session_id:
            raise MessageNotFound(message_id=leaf_message_id)
    page = {"after": int(place), "page_size": page_size, "max_size": max_size}
    if all_branches:
        rows = await tx.all(LIST_NEWEST_FIRST if newest_first else LIST_OLDEST_FIRST, session_id=session_id, **page)
    else:
        rows = await _list_branch(tx, session_id, selected, newest_first=newest_first, **page)
    return page_of(rows, page_size, item=_message, after=lambda row: (selected or "", row.place))


async def _list_branch(
    tx: Transaction,
    session_id: str,
    leaf_message_id: str | None,
    *,
    newest_first: bool,
    after: int,
    page_size: int,
    max_size: int,
) -> list[Row]:
    """Returns the rows of a page of a branch, whose places are depths, negated ones if `newest_first`."""
    if leaf_message_id is None:
        return []
    depth = -after - 1 if newest_first else max(after, 0) + page_size + 1
    lowest = await find_ancestor(tx, session_id=session_id, message_id=leaf_message_id, depth=depth)
    if lowest is None:
        return []
    lowest_message_id, lowest_depth = lowest
    return await tx.all(
        LIST_BRANCH,
        lowest_message_id=lowest_message_id,
        above_depth=lowest_depth - page_size - 1 if newest_first else max(after, 0),
        direction=-1 if newest_first else 1,
        max_size=max_size,
    )
