"""The defaults that a session provides for its turns."""

from collections.abc import Mapping
from dataclasses import dataclass

from metamorphd.errors import SessionNotFound
from metamorphd.store.database import Transaction
from metamorphd.store.labels import decode_labels

GET_SESSION_DEFAULTS = """
SELECT sessions.model, vaults.default_model, sessions.system_prompt,
    vaults.system_prompt AS default_system_prompt, current_leaf_message_id, labels, memory_tool
FROM sessions JOIN vaults ON vaults.vault_id = :vault_id
WHERE sessions.vault_id = :vault_id AND session_id = :session_id AND sessions.delete_time IS NULL
"""


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """The session's own model and system prompt, or its vault's; empty if neither has one.

    `leaf_message_id` is None in a session without messages.
    """

    model: str
    system_prompt: str
    leaf_message_id: str | None
    labels: Mapping[str, str]
    memory_tool: bool


async def get_session_defaults(tx: Transaction, *, session_id: str) -> SessionDefaults:
    """Reads what holds for turns of a session that state nothing else. Raises SessionNotFound."""
    row = await tx.one(GET_SESSION_DEFAULTS, session_id=session_id)
    if row is None:
        raise SessionNotFound(session_id=session_id)
    return SessionDefaults(
        model=row.model or row.default_model,
        system_prompt=row.system_prompt or row.default_system_prompt,
        leaf_message_id=row.current_leaf_message_id,
        labels=decode_labels(row.labels),
        memory_tool=bool(row.memory_tool),
    )
