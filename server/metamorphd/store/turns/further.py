"""Further calls to the model within a turn: each is admitted as a new turn is."""

from collections.abc import Mapping

from metamorphd.errors import TurnNotFound
from metamorphd.store.budgets import admit_turn
from metamorphd.store.database import Transaction
from metamorphd.store.vaults import lock_vault

RESERVE = """
UPDATE turns SET reserved_tokens = :tokens, reserved_cost_usd_nanos = :cost_usd_nanos
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
"""


async def admit_call(
    tx: Transaction,
    *,
    turn_id: str,
    user_id: str,
    labels: Mapping[str, str],
    used: tuple[int, int],
    most: tuple[int, int],
    now: int,
) -> None:
    """Has a turn reserve what it has `used` and the `most` that its next call can use, each (tokens, cost).

    Raises BudgetExceeded if a limit is used up, with what this turn has used, and TurnNotFound if it does not run.
    """
    await lock_vault(tx)
    if not await tx.run(RESERVE, turn_id=turn_id, tokens=used[0], cost_usd_nanos=used[1]):
        raise TurnNotFound(turn_id=turn_id)
    if await admit_turn(tx, user_id=user_id, labels=labels, now=now):
        await tx.run(RESERVE, turn_id=turn_id, tokens=used[0] + most[0], cost_usd_nanos=used[1] + most[1])
