"""What the model is asked with."""

from dataclasses import replace

from metamorphd.errors import SessionNotFound
from metamorphd.models.generation import EffectiveOptions, GenerationOptions
from metamorphd.models.message import Message
from metamorphd.models.turn import Turn
from metamorphd.store.database import Transaction
from metamorphd.store.messages import get_branch
from metamorphd.store.turns.plan import Terms, plan_turn

GET_SYSTEM_PROMPTS = """
SELECT sessions.system_prompt, vaults.system_prompt AS vault_system_prompt
FROM sessions JOIN vaults ON vaults.vault_id = :vault_id
WHERE sessions.vault_id = :vault_id AND session_id = :session_id
"""


async def get_prompt(tx: Transaction, *, turn: Turn) -> tuple[str, tuple[Message, ...]]:
    """What a turn asks the model: the system prompt, and the branch that ends with its user message."""
    system_prompt = await _system_prompt(tx, turn.session_id)
    branch = await get_branch(tx, session_id=turn.session_id, leaf_message_id=turn.user_message_id)
    return system_prompt, branch


async def plan_prompt(
    tx: Transaction, *, message: Message, parent: str | None, options: GenerationOptions, terms: Terms
) -> tuple[str, tuple[Message, ...], EffectiveOptions]:
    """What a turn would ask the model if `message` were sent, as `create_turn` has it. Raises what `plan_turn` does."""
    plan = await plan_turn(
        tx,
        session_id=message.session_id,
        parent=parent,
        content=message.content,
        options=options,
        terms=terms,
    )
    follows = plan.parent_message_id
    before = () if follows is None else await get_branch(tx, session_id=message.session_id, leaf_message_id=follows)
    system_prompt = await _system_prompt(tx, message.session_id)
    return system_prompt, (*before, replace(message, parent_message_id=follows, content=plan.content)), plan.options


async def _system_prompt(tx: Transaction, session_id: str) -> str:
    prompts = await tx.one(GET_SYSTEM_PROMPTS, session_id=session_id)
    if prompts is None:
        raise SessionNotFound(session_id=session_id)
    return str(prompts.system_prompt or prompts.vault_system_prompt)
