"""Links between messages: the tree of a session, in which a branch is the way from a message up to its root.

A link has a message's parent and a jump to an ancestor further up, so that an ancestor at any depth is found in a few
hops: Eugene W. Myers, An applicative random-access stack (Information Processing Letters 17, 1983).
"""

from metamorphd.models.message import Message
from metamorphd.store.database import SqlValue, Transaction

CREATE_ROOT_LINK = """
INSERT INTO message_links (vault_id, message_id, session_id, depth, jump_message_id, jump_depth, size, opens,
    summarizes)
VALUES (:vault_id, :message_id, :session_id, 1, :message_id, 1, :size, :opens, :summarizes)
"""
# The jump is to the parent, unless the parent's jump is as long as the one that follows it: then it is both in one.
CREATE_LINK = """
INSERT INTO message_links (vault_id, message_id, session_id, parent_message_id, depth, jump_message_id, jump_depth,
    size, opens, summarizes)
SELECT :vault_id, :message_id, parent.session_id, parent.message_id, parent.depth + 1,
    CASE WHEN parent.depth - parent.jump_depth = parent.jump_depth - jump.jump_depth
        THEN jump.jump_message_id ELSE parent.message_id END,
    CASE WHEN parent.depth - parent.jump_depth = parent.jump_depth - jump.jump_depth
        THEN jump.jump_depth ELSE parent.depth END,
    :size, :opens, :summarizes
FROM message_links AS parent CROSS JOIN message_links AS jump
WHERE parent.vault_id = :vault_id AND parent.message_id = :parent_message_id
    AND jump.vault_id = :vault_id AND jump.message_id = parent.jump_message_id
"""
CLEAR_LINK = """
UPDATE message_links SET size = 2, opens = 0, summarizes = 0
WHERE vault_id = :vault_id AND message_id = :message_id
"""
UNLINK_SUMMARY = """
UPDATE message_links SET summarizes = 0
WHERE vault_id = :vault_id AND message_id = :message_id AND summarizes = 1
"""
GET_ANCESTOR = """
WITH RECURSIVE hops (id, depth, parent_id, jump_id, jump_depth) AS (
    SELECT message_id, depth, parent_message_id, jump_message_id, jump_depth FROM message_links
    WHERE vault_id = :vault_id AND message_id = :message_id AND session_id = :session_id
    UNION ALL
    SELECT link.message_id, link.depth, link.parent_message_id, link.jump_message_id, link.jump_depth
    FROM hops CROSS JOIN message_links AS link
    WHERE hops.depth > :depth AND link.vault_id = :vault_id
        AND link.message_id = CASE WHEN hops.jump_depth < :depth THEN hops.parent_id ELSE hops.jump_id END
)
SELECT id, depth FROM hops ORDER BY depth LIMIT 1
"""


async def create_link(tx: Transaction, *, message: Message, size: int) -> None:
    """Stores the link of a message, whose content has `size` bytes. Its parent is stored."""
    spoken = message.in_branch
    link: dict[str, SqlValue] = {
        "message_id": message.message_id,
        "size": size,
        "opens": spoken.opens_prompt,
        "summarizes": spoken.summarizes,
    }
    if message.parent_message_id is None:
        await tx.run(CREATE_ROOT_LINK, session_id=message.session_id, **link)
    elif not await tx.run(CREATE_LINK, parent_message_id=message.parent_message_id, **link):
        raise RuntimeError("the parent of a message has no link")


async def clear_link(tx: Transaction, *, message_id: str) -> None:
    """Records that a message has no content any more. Its place in the tree stays."""
    await tx.run(CLEAR_LINK, message_id=message_id)


async def unlink_summary(tx: Transaction, *, message_id: str) -> None:
    """Records that a message has no summary that prompts can begin with."""
    await tx.run(UNLINK_SUMMARY, message_id=message_id)


async def find_ancestor(tx: Transaction, *, session_id: str, message_id: str, depth: int) -> tuple[str, int] | None:
    """Returns (message ID, depth) of a message's ancestor at a depth, or of itself if it is not below that.

    None if the session has no such message. Takes at most two hops for each binary digit of the message's depth.
    """
    row = await tx.one(GET_ANCESTOR, session_id=session_id, message_id=message_id, depth=depth)
    return None if row is None else (row.id, row.depth)
