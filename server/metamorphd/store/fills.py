"""Fills what a schema's step has added for rows that are already stored, where SQL alone cannot."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import structlog

from metamorphd.models.message import BranchMessage, Role
from metamorphd.store.codec import decode_content

# Runs a statement with parameters in the step's transaction, and returns its rows as they are read.
Execute = Callable[[str, tuple[Any, ...]], Iterable[tuple[Any, ...]]]

LIST_MESSAGES = """
SELECT vault_id, session_id, message_id, parent_message_id, role, content, size FROM messages
ORDER BY vault_id, session_id, ordinal
"""
CREATE_LINK = "INSERT INTO message_links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
REPORTED_MESSAGES = 100_000

logger = structlog.get_logger(__name__)


def fill_message_links(execute: Execute) -> None:
    """Links the messages of every session. A parent precedes its children."""
    count = 0
    for _, messages in groupby(execute(LIST_MESSAGES, ()), key=lambda row: row[:2]):
        # By message: depth, and the message and depth of its jump.
        links: dict[str, tuple[int, str, int]] = {}
        for vault_id, session_id, message_id, parent_message_id, role, content, size in messages:
            link = (1, message_id, 1)
            if parent_message_id is not None:
                depth, jump_message_id, jump_depth = links[parent_message_id]
                _, far_message_id, far_depth = links[jump_message_id]
                both = depth - jump_depth == jump_depth - far_depth
                link = (depth + 1, *((far_message_id, far_depth) if both else (parent_message_id, depth)))
            links[message_id] = link
            message = BranchMessage(Role(role), decode_content(content), is_root=parent_message_id is None)
            flags = (size, message.opens_prompt, message.summarizes)
            execute(CREATE_LINK, (vault_id, message_id, session_id, parent_message_id, *link, *flags))
            count += 1
            if count % REPORTED_MESSAGES == 0:
                logger.info("linking messages", linked=count)


def drop_empty_index(execute: Execute) -> None:
    """Drops the full-text index of earlier servers from a new database."""
    if not list(execute("SELECT 1 FROM message_search_docsize LIMIT 1", ())):
        list(execute("DROP TABLE message_search", ()))


FILLS = {10: fill_message_links, 11: drop_empty_index}
