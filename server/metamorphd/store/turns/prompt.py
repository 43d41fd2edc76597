"""Reads what the model is asked with."""

from dataclasses import replace

from metamorphd.models.generation import EffectiveOptions, GenerationOptions
from metamorphd.models.message import Message
from metamorphd.models.turn import Turn
from metamorphd.store.database import Transaction
from metamorphd.store.messages import get_branch
from metamorphd.store.turns.plan import plan_turn
from metamorphd.store.turns.session_defaults import get_session_defaults
from metamorphd.store.turns.terms import Terms


async def get_prompt(tx: Transaction, *, turn: Turn, terms: Terms) -> tuple[str, tuple[Message, ...]]:
    """Returns a turn's system prompt, and what it can need of the branch that ends with its user message."""
    defaults = await get_session_defaults(tx, session_id=turn.session_id)
    branch = await get_branch(
        tx,
        session_id=turn.session_id,
        leaf_message_id=turn.user_message_id,
        max_bytes=terms.catalog.model(turn.model).context_bytes,
    )
    return defaults.system_prompt, branch


async def plan_prompt(
    tx: Transaction, *, message: Message, parent: str | None, options: GenerationOptions, terms: Terms
) -> tuple[str, tuple[Message, ...], EffectiveOptions]:
    """Returns what a turn on `message` would ask, and with which options. Raises what `plan_turn` does."""
    plan = await plan_turn(
        tx,
        session_id=message.session_id,
        parent=parent,
        content=message.content,
        options=options,
        terms=terms,
    )
    follows = plan.parent_message_id
    max_bytes = terms.catalog.model(plan.options.model).context_bytes
    before: tuple[Message, ...] = ()
    if follows is not None:
        before = await get_branch(tx, session_id=message.session_id, leaf_message_id=follows, max_bytes=max_bytes)
    message = replace(message, parent_message_id=follows, content=plan.content)
    return plan.system_prompt, (*before, message), plan.options
