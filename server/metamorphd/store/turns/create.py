"""Starting turns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from metamorphd.errors import (
    TooManyTurns,
)
from metamorphd.models.attachment import Upload
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.message import Message
from metamorphd.models.turn import Turn
from metamorphd.store.budgets import admit_turn, reserve
from metamorphd.store.changes import append_change
from metamorphd.store.codec import DEFAULTS, encode_content, encode_options
from metamorphd.store.database import Transaction, grows
from metamorphd.store.idempotency import IdempotencyKey, claim_request
from metamorphd.store.labels import encode_labels, labels_of_turn, labels_size
from metamorphd.store.messages import create_message, get_message
from metamorphd.store.storage import require_storage
from metamorphd.store.turns.plan import Plan, plan_regeneration, plan_turn
from metamorphd.store.turns.read import COLUMNS, get_turn, turn_of
from metamorphd.store.turns.terms import Terms
from metamorphd.store.uploads import added_bytes, store_upload
from metamorphd.store.vaults import lock_vault

COUNT_RUNNING = "SELECT COUNT(*) AS running FROM turns WHERE vault_id = :vault_id AND status = 'RUNNING'"
CREATE_TURN = (
    """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, status, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, model, model_calls, last_sequence, creator, create_time, options,
    labels, reserved_tokens, reserved_cost_usd_nanos, owner, lease_expire_time)
VALUES (:vault_id, :turn_id, :session_id, :user_message_id, 'RUNNING', 0, 0, 0, 0, :model, 0, 1, :creator, :now,
    :options, :labels, :reserved_tokens, :reserved_cost_usd_nanos, :owner, :lease_expire_time)
RETURNING """
    + COLUMNS
    + """
"""
)
NO_OPTIONS = encode_options(DEFAULTS)


@grows
async def create_turn(
    tx: Transaction,
    *,
    message: Message,
    uploads: Sequence[Upload],
    parent: str | None,
    options: GenerationOptions,
    labels: Mapping[str, str],
    terms: Terms,
    request: IdempotencyKey | None,
) -> Turn:
    """Stores `message` and a running turn that answers it, or returns the turn that `request` made.

    `message` has no parent yet: `parent` is as for `plan_turn`. `uploads` are the attachments included in the message,
    which may refer to others. `labels` are added to those of the session. Raises TooManyTurns, BudgetExceeded,
    RequestIdReused, TurnNotFound if the turn that `request` made is gone, and what `plan_turn` and `labels_of_turn` do.
    """
    await lock_vault(tx)
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
    labels = labels_of_turn(plan.session_labels, labels)
    added = len(encode_content(plan.content).encode()) + await added_bytes(tx, uploads=uploads)
    stored_options = encode_options(plan.options)
    added += _counted(stored_options) + labels_size(labels)
    await require_storage(tx, added_bytes=added, default_limit=terms.storage_limit)
    budgeted = await _admit(tx, terms, user_id=message.creator, labels=labels, now=message.create_time)
    for upload in uploads:
        await store_upload(tx, upload=upload, now=message.create_time)
    message = replace(message, parent_message_id=plan.parent_message_id, content=plan.content)
    await create_message(tx, message=message)
    return await _insert(
        tx,
        message,
        turn_id=message.turn_id,
        plan=plan,
        labels=labels,
        stored_options=stored_options,
        terms=terms,
        budgeted=budgeted,
        now=message.create_time,
    )


@grows
async def create_regeneration(
    tx: Transaction,
    *,
    turn_id: str,
    user_message_id: str,
    options: GenerationOptions,
    labels: Mapping[str, str],
    terms: Terms,
    request: IdempotencyKey | None,
    now: int,
) -> Turn:
    """Stores another running turn that answers a user's message, or returns the turn that `request` made.

    `labels` are added to those of the session. Raises MessageNotFound and what `plan_regeneration` and `create_turn`
    do.
    """
    await lock_vault(tx)
    made = await _made_before(tx, request=request, turn_id=turn_id, now=now)
    if made is not None:
        return made
    message = await get_message(tx, message_id=user_message_id)
    plan = await plan_regeneration(tx, message=message, options=options, terms=terms)
    labels = labels_of_turn(plan.session_labels, labels)
    stored_options = encode_options(plan.options)
    added = 1 + _counted(stored_options) + labels_size(labels)
    await require_storage(tx, added_bytes=added, default_limit=terms.storage_limit)
    message = replace(message, creator=tx.scope.actor.user_id)
    budgeted = await _admit(tx, terms, user_id=message.creator, labels=labels, now=now)
    return await _insert(
        tx,
        message,
        turn_id=turn_id,
        plan=plan,
        labels=labels,
        stored_options=stored_options,
        terms=terms,
        budgeted=budgeted,
        now=now,
    )


def _counted(stored_options: str) -> int:
    """Returns the bytes of options, with the tools that are kept from the turn before, as the schema counts them."""
    return 0 if stored_options == NO_OPTIONS else len(stored_options.encode())


async def _made_before(tx: Transaction, *, request: IdempotencyKey | None, turn_id: str, now: int) -> Turn | None:
    if request is None:
        return None
    made = await claim_request(tx, request=request, resource_id=turn_id, now=now)
    return None if made == turn_id else await get_turn(tx, turn_id=made)


async def _admit(tx: Transaction, terms: Terms, *, user_id: str, labels: Mapping[str, str], now: int) -> bool:
    """Returns whether the turn must reserve of a budget. Raises TooManyTurns, BudgetExceeded."""
    row = await tx.one(COUNT_RUNNING)
    if row is not None and row.running >= terms.max_running_turns:
        raise TooManyTurns(limit=terms.max_running_turns, retry_delay=1.0)
    return await admit_turn(tx, user_id=user_id, labels=labels, now=now)


async def _insert(
    tx: Transaction,
    message: Message,
    *,
    turn_id: str,
    plan: Plan,
    labels: Mapping[str, str],
    stored_options: str,
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
            system_prompt=plan.system_prompt,
            options=plan.options,
            catalog=terms.catalog,
            output_tokens=terms.output_tokens(plan.options),
            compact_above=terms.summarizes_above(plan.options),
        )
    row = await tx.one(
        CREATE_TURN,
        turn_id=turn_id,
        session_id=message.session_id,
        user_message_id=message.message_id,
        model=plan.options.model,
        creator=message.creator,
        now=now,
        options=stored_options,
        labels=encode_labels(labels),
        reserved_tokens=reserved_tokens,
        reserved_cost_usd_nanos=reserved_cost,
        owner=terms.owner,
        lease_expire_time=now + terms.lease,
    )
    if row is None:
        raise RuntimeError("a turn that was just made is missing")
    await append_change(tx, resource=ChangedResource.TURN, resource_id=turn_id, verb=ChangeVerb.STARTED, now=now)
    return turn_of(row)
