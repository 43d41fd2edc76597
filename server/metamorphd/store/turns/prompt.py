"""Reads what the model is asked with."""

from dataclasses import dataclass, replace
from itertools import chain

from metamorphd.models.generation import EffectiveOptions, GenerationOptions
from metamorphd.models.message import Branch, Message
from metamorphd.models.turn import Turn
from metamorphd.store.branches import get_branch
from metamorphd.store.database import Transaction
from metamorphd.store.turns.plan import plan_turn
from metamorphd.store.turns.session_defaults import get_session_defaults
from metamorphd.store.turns.terms import Terms


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A prompt before it is built. `options` name the model."""

    system_prompt: str
    branch: Branch
    options: EffectiveOptions


async def get_prompt(tx: Transaction, *, turn: Turn, terms: Terms, read_bytes: int | None = None) -> PlannedPrompt:
    """Returns a turn's prompt, with what it can need of the branch that ends with its user message.

    The branch is as `get_branch` returns it.
    """
    defaults = await get_session_defaults(tx, session_id=turn.session_id)
    branch = await get_branch(
        tx,
        session_id=turn.session_id,
        leaf_message_id=turn.user_message_id,
        max_bytes=terms.catalog.model(turn.model).context_bytes,
        read_bytes=read_bytes,
    )
    return PlannedPrompt(defaults.system_prompt, branch, replace(turn.options, model=turn.model))


async def plan_prompt(
    tx: Transaction,
    *,
    message: Message,
    parent: str | None,
    options: GenerationOptions,
    terms: Terms,
    read_bytes: int | None = None,
) -> PlannedPrompt:
    """Returns the prompt of a turn on `message`, which is not stored. Raises what `plan_turn` does.

    The branch is as `get_branch` returns it, followed by the message.
    """
    plan = await plan_turn(
        tx,
        session_id=message.session_id,
        parent=parent,
        content=message.content,
        options=options,
        terms=terms,
    )
    follows = plan.parent_message_id
    branch = Branch(0, ())
    if follows is not None:
        branch = await get_branch(
            tx,
            session_id=message.session_id,
            leaf_message_id=follows,
            max_bytes=terms.catalog.model(plan.options.model).context_bytes,
            read_bytes=read_bytes,
        )
    if branch.messages is not None:
        last = replace(message, parent_message_id=follows, content=plan.content).in_branch
        branch = replace(branch, messages=chain(branch.messages, (last,)))
    return PlannedPrompt(plan.system_prompt, branch, plan.options)
