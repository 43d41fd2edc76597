"""Titles that sessions are given."""

from metamorphd.models.change import ChangeVerb
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage
from metamorphd.models.vault import VaultState
from metamorphd.store.budgets import get_budgets
from metamorphd.store.database import Transaction, concludes
from metamorphd.store.erasure_ledger import get_life
from metamorphd.store.labels import label_names
from metamorphd.store.sessions import append_session_change, get_session
from metamorphd.store.usage import count_usage
from metamorphd.store.vault_states import get_vault_status

# A title that a user has set meanwhile stays.
SET_TITLE = """
UPDATE sessions SET title = :title, revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id AND title = '' AND delete_time IS NULL
"""
GET_TITLE_CALLS = "SELECT title_calls FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id"
COUNT_TITLE_CALL = """
UPDATE sessions SET title_calls = title_calls + 1 WHERE vault_id = :vault_id AND session_id = :session_id
"""

# A model that finds no title twice will not find one.
MOST_TITLE_CALLS = 2


async def wants_title(tx: Transaction, *, turn: Turn, now: int) -> bool:
    """Whether the session of a turn has none, and what the turn counts towards can pay for one. Raises SessionNotFound.

    A session for which MOST_TITLE_CALLS have been paid wants none any more, and no session of a vault that is suspended
    or deleted wants one.
    """
    if (await get_vault_status(tx)).state is not VaultState.ACTIVE:
        return False
    session = await get_session(tx, session_id=turn.session_id)
    paid = await tx.one(GET_TITLE_CALLS, session_id=turn.session_id)
    if session.title or paid is None or paid.title_calls >= MOST_TITLE_CALLS:
        return False
    budgets = await get_budgets(tx, user_id=turn.creator, labels=label_names(turn.labels), now=now)
    return all(budget.left > 0 for budget in budgets)


@concludes
async def set_title(
    tx: Transaction, *, turn: Turn, life: str | None, title: str, model: str, usage: Usage, now: int
) -> None:
    """Gives the session of a turn its title if it has none, and counts what that has cost as the turn's.

    Does nothing if the vault has been erased since: `life` is that in which the turn began.
    """
    if await get_life(tx) != life:
        return
    session_id = turn.session_id
    if title and await tx.run(SET_TITLE, session_id=session_id, title=title, now=now):
        await append_session_change(tx, session_id=session_id, verb=ChangeVerb.UPDATED, now=now)
    if usage != Usage():
        await tx.run(COUNT_TITLE_CALL, session_id=session_id)
    await count_usage(tx, turn=turn, model=model, usage=usage, now=now, turns=0)
