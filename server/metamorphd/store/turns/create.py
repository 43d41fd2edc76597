"""Starting turns."""

from collections.abc import Sequence
from dataclasses import replace

from metamorphd.errors import (
    MessageDeleted,
    NotAUserMessage,
    TooManyTurns,
)
from metamorphd.models.attachment import Upload
from metamorphd.models.generation import EffectiveOptions, GenerationOptions
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import Turn
from metamorphd.store.attachments import store_upload
from metamorphd.store.budgets import admit_turn, reserve
from metamorphd.store.codec import encode_options
from metamorphd.store.database import Transaction
from metamorphd.store.idempotency import IdempotencyKey, claim_request
from metamorphd.store.messages import create_message, get_message
from metamorphd.store.turns.plan import (
    Terms,
    plan_turn,
    refuse_busy,
    refuse_contradictions,
    refuse_model,
    session_defaults,
)
from metamorphd.store.turns.read import COLUMNS, get_turn, turn_of

COUNT_RUNNING = "SELECT COUNT(*) AS running FROM turns WHERE vault_id = :vault_id AND status = 'RUNNING'"
CREATE_TURN = (
    """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, status, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, model, model_calls, last_sequence, creator, create_time, options,
    reserved_tokens, reserved_cost_usd_nanos, owner, lease_expire_time)
VALUES (:vault_id, :turn_id, :session_id, :user_message_id, 'RUNNING', 0, 0, 0, 0, :model, 0, 1, :creator, :now,
    :options, :reserved_tokens, :reserved_cost_usd_nanos, :owner, :lease_expire_time)
RETURNING """
    + COLUMNS
    + """
"""
)


async def create_turn(
    tx: Transaction,
    *,
    message: Message,
    uploads: Sequence[Upload],
    parent: str | None,
    options: GenerationOptions,
    terms: Terms,
    request: IdempotencyKey | None,
) -> Turn:
    """Stores `message` and a running turn that will answer it, or answers the turn that `request` made.

    `message` has no parent yet: `parent` is as for `plan_turn`, which raises most of what this does. `uploads` are the
    attachments that the message brings along; it may name others. Raises
    TooManyTurns, BudgetExceeded and RequestIdReused too, and TurnNotFound if the turn that `request` made is gone.
    """
    made = await _made_before(tx, request=request, turn_id=message.turn_id, now=message.create_time)
    if made is not None:
        return made
    plan = await plan_turn(
        tx,
        session_id=message.session_id,
        parent=parent,
        content=message.content,
        options=options,
        terms=terms,
    )
    budgeted = await _admit(tx, terms, now=message.create_time)
    for upload in uploads:
        await store_upload(tx, upload=upload, now=message.create_time)
    message = replace(message, parent_message_id=plan.parent_message_id, content=plan.content)
    await create_message(tx, message=message)
    return await _insert(
        tx,
        message,
        turn_id=message.turn_id,
        options=plan.options,
        terms=terms,
        budgeted=budgeted,
        now=message.create_time,
    )


async def create_regeneration(
    tx: Transaction,
    *,
    turn_id: str,
    user_message_id: str,
    options: GenerationOptions,
    terms: Terms,
    request: IdempotencyKey | None,
    now: int,
) -> Turn:
    """Stores a running turn that will answer a user's message once more, or answers the turn that `request` made.

    Options that are absent are as in the message's original turn. Raises MessageNotFound, NotAUserMessage,
    MessageDeleted, and what `create_turn` does.
    """
    made = await _made_before(tx, request=request, turn_id=turn_id, now=now)
    if made is not None:
        return made
    message = await get_message(tx, message_id=user_message_id)
    if message.role is not Role.USER:
        raise NotAUserMessage(message_id=user_message_id)
    if message.delete_time is not None:
        raise MessageDeleted(message_id=user_message_id)
    original = await get_turn(tx, turn_id=message.turn_id)
    effective = options.over(replace(original.options, model=original.model))
    if not effective.model:
        default_model, _ = await session_defaults(tx, session_id=message.session_id, terms=terms)
        effective = replace(effective, model=default_model)
    refuse_model(effective.model, terms)
    await refuse_busy(tx, session_id=message.session_id, user_message_id=user_message_id)
    refuse_contradictions(effective, terms)
    budgeted = await _admit(tx, terms, now=now)
    return await _insert(
        tx,
        replace(message, creator=tx.scope.actor.user_id),
        turn_id=turn_id,
        options=effective,
        terms=terms,
        budgeted=budgeted,
        now=now,
    )


async def _made_before(tx: Transaction, *, request: IdempotencyKey | None, turn_id: str, now: int) -> Turn | None:
    if request is None:
        return None
    made = await claim_request(tx, request=request, resource_id=turn_id, now=now)
    return None if made == turn_id else await get_turn(tx, turn_id=made)


async def _admit(tx: Transaction, terms: Terms, *, now: int) -> bool:
    """Whether the turn must reserve of a budget. Raises TooManyTurns, BudgetExceeded."""
    row = await tx.one(COUNT_RUNNING)
    if row is not None and row.running >= terms.max_running_turns:
        raise TooManyTurns(limit=terms.max_running_turns, retry_delay=1.0)
    return await admit_turn(tx, now=now)


async def _insert(
    tx: Transaction,
    message: Message,
    *,
    turn_id: str,
    options: EffectiveOptions,
    terms: Terms,
    budgeted: bool,
    now: int,
) -> Turn:
    reserved_tokens, reserved_cost = 0, 0
    if budgeted:
        reserved_tokens, reserved_cost = await reserve(
            tx,
            session_id=message.session_id,
            user_message_id=message.message_id,
            options=options,
            catalog=terms.catalog,
            output_tokens=terms.output_tokens(options),
            compact_above=terms.compact_above,
        )
    row = await tx.one(
        CREATE_TURN,
        turn_id=turn_id,
        session_id=message.session_id,
        user_message_id=message.message_id,
        model=options.model,
        creator=message.creator,
        now=now,
        options=encode_options(options),
        reserved_tokens=reserved_tokens,
        reserved_cost_usd_nanos=reserved_cost,
        owner=terms.owner,
        lease_expire_time=now + terms.lease,
    )
    if row is None:
        raise RuntimeError("a turn that was just made is missing")
    return turn_of(row)
