"""Titles that sessions are given."""

from metamorphd.models.usage import Usage
from metamorphd.store.budgets import get_budgets
from metamorphd.store.database import Transaction
from metamorphd.store.sessions import get_session
from metamorphd.store.usage import count_usage

# A title that a user has set meanwhile stays.
SET_TITLE = """
UPDATE sessions SET title = :title, revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id AND title = ''
"""


async def wants_title(tx: Transaction, *, session_id: str, now: int) -> bool:
    """Whether a session has none, and its vault can pay for one. Raises SessionNotFound."""
    session = await get_session(tx, session_id=session_id)
    return not session.title and all(budget.left > 0 for budget in await get_budgets(tx, now=now))


async def set_title(tx: Transaction, *, session_id: str, title: str, model: str, usage: Usage, now: int) -> None:
    """Gives a session its title if it has none, and counts what that has cost."""
    if title:
        await tx.run(SET_TITLE, session_id=session_id, title=title, now=now)
    await count_usage(tx, session_id=session_id, model=model, usage=usage, now=now, turns=0)
