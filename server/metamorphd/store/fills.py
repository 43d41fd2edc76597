"""Fills what a schema's step has added for rows that are already stored, where SQL alone cannot.

A fill yields where the transaction may be committed. If it is interrupted there, it runs again with its step, whose
statements must allow that.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog

from metamorphd.models.message import BranchMessage, Role
from metamorphd.store.codec import decode_content

# Runs a statement with parameters in the step's transaction, and returns its rows as they are read.
Execute = Callable[[str, tuple[Any, ...]], Iterable[tuple[Any, ...]]]

# Of those whose last message is not linked: a session is linked at once, but an earlier server may have added to it.
FIND_SESSION = """
SELECT vault_id, session_id FROM sessions
WHERE (vault_id, session_id) > (?, ?) AND NOT EXISTS (
    SELECT 1 FROM message_links WHERE message_links.vault_id = sessions.vault_id AND message_links.message_id = (
        SELECT message_id FROM messages
        WHERE messages.vault_id = sessions.vault_id AND messages.session_id = sessions.session_id
        ORDER BY ordinal DESC LIMIT 1
    )
)
ORDER BY vault_id, session_id LIMIT 1
"""
LIST_MESSAGES = """
SELECT message_id, parent_message_id, role, content, size FROM messages
WHERE vault_id = ? AND session_id = ? ORDER BY ordinal
"""
CREATE_LINK = "INSERT INTO message_links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
# A commit for so many messages, or for one session.
COMMITTED_MESSAGES = 1_000
REPORTED_MESSAGES = 100_000

logger = structlog.get_logger(__name__)


def fill_message_links(execute: Execute) -> Iterator[None]:
    """Links the messages of every session."""
    session, count = ("", ""), 0
    while found := list(execute(FIND_SESSION, session)):
        session = found[0]
        before = count
        count += _link_session(execute, *session)
        if count // REPORTED_MESSAGES > before // REPORTED_MESSAGES:
            logger.info("linking messages", linked=count)
        if count // COMMITTED_MESSAGES > before // COMMITTED_MESSAGES:
            yield


def _link_session(execute: Execute, vault_id: str, session_id: str) -> int:
    """Links the messages of a session, parents before their children, and returns how many there are."""
    # By message: depth, and the message and depth of its jump.
    links: dict[str, tuple[int, str, int]] = {}
    for message_id, parent_message_id, role, content, size in execute(LIST_MESSAGES, (vault_id, session_id)):
        link = (1, message_id, 1)
        if parent_message_id is not None:
            depth, jump_message_id, jump_depth = links[parent_message_id]
            _, far_message_id, far_depth = links[jump_message_id]
            both = depth - jump_depth == jump_depth - far_depth
            link = (depth + 1, *((far_message_id, far_depth) if both else (parent_message_id, depth)))
        links[message_id] = link
        message = BranchMessage(message_id, Role(role), decode_content(content), is_root=parent_message_id is None)
        flags = (size, message.opens_prompt, message.summarizes)
        execute(CREATE_LINK, (vault_id, message_id, session_id, parent_message_id, *link, *flags))
    return len(links)


def drop_empty_index(execute: Execute) -> Iterator[None]:
    """Drops the full-text index of earlier servers from a new database."""
    if not list(execute("SELECT 1 FROM message_search_docsize LIMIT 1", ())):
        list(execute("DROP TABLE message_search", ()))
    yield from ()


FILLS = {10: fill_message_links, 11: drop_empty_index}
