"""Turns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace

import orjson

from metamorphd.errors import (
    MessageDeleted,
    NotAUserMessage,
    SequenceAhead,
    TooManyTurns,
    TurnNotFound,
)
from metamorphd.models import (
    Message,
    MiddleEvent,
    Options,
    Page,
    Role,
    StopReason,
    ThinkingBlock,
    Turn,
    TurnError,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    TurnStatus,
    Usage,
)
from metamorphd.store.attachments import Upload, store_upload
from metamorphd.store.budgets import admit_turn, reserve
from metamorphd.store.database import Row, SystemTransaction, Transaction, point_read
from metamorphd.store.events import append_events, list_middle_events, reply_content, reported_usage
from metamorphd.store.messages import create_message, get_message
from metamorphd.store.options import decode_options, encode_options
from metamorphd.store.pages import page_of
from metamorphd.store.plans import Terms, plan_turn, refuse_busy, refuse_model
from metamorphd.store.requests import RequestKey, claim_request
from metamorphd.store.sessions import get_session
from metamorphd.store.usage import count_usage

# A running turn's newest event is told by `events`, so that a delta costs one insert and no update.
COLUMNS = """
    turn_id, session_id, user_message_id, reply_message_id, status, stop_reason,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, model, model_calls, error,
    CASE WHEN status = 'RUNNING' THEN COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = turns.turn_id),
        last_sequence) ELSE last_sequence END,
    creator, create_time, finish_time, options, pruned
"""

COUNT_RUNNING = "SELECT COUNT(*) FROM turns WHERE vault_id = :vault_id AND status = 'RUNNING'"
CREATE_TURN = (
    """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, status, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, model, model_calls, last_sequence, creator, create_time, options,
    reserved_tokens, reserved_cost_usd_nanos)
VALUES (:vault_id, :turn_id, :session_id, :user_message_id, 'RUNNING', 0, 0, 0, 0, :model, 0, 1, :creator, :now,
    :options, :reserved_tokens, :reserved_cost_usd_nanos)
RETURNING """
    + COLUMNS
    + """
"""
)
GET_TURN = "SELECT " + COLUMNS + " FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
# Tools and schemas may be a megabyte a turn, and a list does not tell them.
LISTED = COLUMNS.replace(" options,", " '{}',")
LIST_TURNS = (
    """
WITH candidates AS (
    SELECT turn_id AS id FROM turns
    WHERE vault_id = :vault_id AND session_id = :session_id AND turn_id < :after_id
        AND (:status IS NULL OR status = :status)
    ORDER BY turn_id DESC
    LIMIT :page_size + 1
)
SELECT """
    + LISTED
    + """, (SELECT COUNT(*) FROM candidates)
FROM candidates JOIN turns ON vault_id = :vault_id AND turn_id = id
ORDER BY turn_id DESC
"""
)
FINISH_TURN = """
UPDATE turns
SET status = :status, stop_reason = :stop_reason, reply_message_id = :reply_message_id, error = :error,
    input_tokens = :input_tokens, output_tokens = :output_tokens, cache_read_tokens = :cache_read_tokens,
    cache_write_tokens = :cache_write_tokens, cost_usd_nanos = :cost_usd_nanos, model_calls = :model_calls,
    finish_time = :now,
    last_sequence = 1 + COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = :turn_id),
        last_sequence)
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
RETURNING last_sequence
"""
LIST_RUNNING_TURNS = "SELECT vault_id, turn_id FROM turns WHERE status = 'RUNNING'"


# Above every id, so that the first page begins at the newest turn.
LAST_ID = "~"


def _turn(row: Row) -> Turn:
    return Turn(
        turn_id=row[0],
        session_id=row[1],
        user_message_id=row[2],
        reply_message_id=row[3],
        status=TurnStatus(row[4]),
        stop_reason=row[5] and StopReason(row[5]),
        usage=Usage(*row[6:11]),
        model=row[11],
        model_calls=row[12],
        error=row[13] and TurnError(**orjson.loads(row[13])),
        last_sequence=row[14],
        creator=row[15],
        create_time=row[16],
        finish_time=row[17],
        options=decode_options(row[18]),
        pruned=bool(row[19]),
    )


def started_event(turn: Turn) -> TurnStarted:
    """A turn's first event."""
    return TurnStarted(
        turn_id=turn.turn_id,
        sequence=1,
        session_id=turn.session_id,
        user_message_id=turn.user_message_id,
        model=turn.model,
    )


async def create_turn(
    tx: Transaction,
    *,
    message: Message,
    uploads: Sequence[Upload],
    parent: str | None,
    options: Options,
    terms: Terms,
    request: RequestKey | None,
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
    options: Options,
    creator: str,
    terms: Terms,
    request: RequestKey | None,
    now: int,
) -> Turn:
    """Stores a running turn that will answer a user's message once more, or answers the turn that `request` made.

    What `options` leaves open is as in the message's original turn. Raises MessageNotFound, NotAUserMessage,
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
    before = replace(original.options, model=original.model)
    told = {field.name: value for field in fields(Options) if (value := getattr(options, field.name))}
    options = replace(before, **told)
    refuse_model(options.model, terms)
    await refuse_busy(tx, session_id=message.session_id, user_message_id=user_message_id)
    budgeted = await _admit(tx, terms, now=now)
    return await _insert(
        tx,
        replace(message, creator=creator),
        turn_id=turn_id,
        options=options,
        terms=terms,
        budgeted=budgeted,
        now=now,
    )


async def _made_before(tx: Transaction, *, request: RequestKey | None, turn_id: str, now: int) -> Turn | None:
    if request is None:
        return None
    made = await claim_request(tx, request=request, resource_id=turn_id, now=now)
    return None if made == turn_id else await get_turn(tx, turn_id=made)


async def _admit(tx: Transaction, terms: Terms, *, now: int) -> bool:
    """Whether the turn must reserve of a budget. Raises TooManyTurns, BudgetExceeded."""
    running = await tx.one(COUNT_RUNNING)
    if running is not None and running[0] >= terms.max_running_turns:
        raise TooManyTurns(limit=terms.max_running_turns, retry_delay=1.0)
    return await admit_turn(tx, now=now)


async def _insert(
    tx: Transaction,
    message: Message,
    *,
    turn_id: str,
    options: Options,
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
    )
    if row is None:
        raise RuntimeError("a turn that was just made is missing")
    return _turn(row)


@point_read
async def get_turn(tx: Transaction, *, turn_id: str) -> Turn:
    """Reads one turn. Raises TurnNotFound."""
    row = await tx.one(GET_TURN, turn_id=turn_id)
    if row is None:
        raise TurnNotFound(turn_id=turn_id)
    return _turn(row)


async def finish_turn(
    tx: Transaction,
    *,
    turn: Turn,
    events: Sequence[MiddleEvent],
    closed: Mapping[int, ThinkingBlock],
    status: TurnStatus,
    stop_reason: StopReason | None,
    usage: Usage | None,
    model_calls: int,
    error: TurnError | None,
    reply_message_id: str,
    now: int,
) -> TurnFinished:
    """Appends the last events and ends a running turn; what its events add up to is the reply, stored if it is any.

    `closed` is as for `reply_content`; a `usage` of None is what the events say. Raises TurnNotFound when it is not
    running any more.
    """
    await append_events(tx, events=events)
    content = await reply_content(tx, turn_id=turn.turn_id, closed=closed)
    cost = await reported_usage(tx, turn_id=turn.turn_id) if usage is None else usage
    reply = None
    # Of a turn that fails, thinking alone is no reply: the next message follows the user's.
    if content and (status is not TurnStatus.FAILED or any(not isinstance(block, ThinkingBlock) for block in content)):
        reply = Message(
            message_id=reply_message_id,
            session_id=turn.session_id,
            parent_message_id=turn.user_message_id,
            role=Role.ASSISTANT,
            content=content,
            turn_id=turn.turn_id,
            creator=turn.creator,
            model=turn.model,
            usage=cost,
            create_time=now,
        )
    finished = await tx.one(
        FINISH_TURN,
        turn_id=turn.turn_id,
        status=status,
        stop_reason=stop_reason,
        reply_message_id=None if reply is None else reply.message_id,
        error=None if error is None else orjson.dumps(error).decode(),
        model_calls=model_calls,
        now=now,
        **asdict(cost),
    )
    if finished is None:
        raise TurnNotFound(turn_id=turn.turn_id)
    await count_usage(tx, session_id=turn.session_id, model=turn.model, usage=cost, now=now)
    if reply is not None:
        await create_message(tx, message=reply)
    return TurnFinished(turn.turn_id, finished[0], status, reply, stop_reason, cost, error)


async def list_turns(
    tx: Transaction,
    *,
    session_id: str,
    status: TurnStatus | None,
    after: tuple[int | str, ...] | None,
    page_size: int,
) -> Page[Turn]:
    """A session's turns, newest first, their options left out; `after` is (turn id). Raises SessionNotFound."""
    await get_session(tx, session_id=session_id)
    after_id = after[0] if after else LAST_ID
    rows = await tx.all(LIST_TURNS, session_id=session_id, status=status, after_id=after_id, page_size=page_size)
    return page_of(rows, page_size, item=_turn, after=lambda row: (row[0],))


async def list_events(
    tx: Transaction, *, turn_id: str, after_sequence: int, limit: int, max_characters: int
) -> tuple[Turn, list[TurnEvent]]:
    """A turn and its next events, about `limit` of them, or fewer that hold about `max_characters` of text.

    The last of a finished one is its TurnFinished.

    Of a turn whose events were pruned that is the only one. Raises TurnNotFound, SequenceAhead.
    """
    turn = await get_turn(tx, turn_id=turn_id)
    if after_sequence > turn.last_sequence:
        raise SequenceAhead(last_sequence=turn.last_sequence)
    events: list[TurnEvent] = []
    last = True
    if not turn.pruned:
        middle, last = await list_middle_events(
            tx, turn_id=turn_id, after_sequence=after_sequence, limit=limit, max_characters=max_characters
        )
        events += [started_event(turn), *middle] if after_sequence < 1 else middle
    if turn.status is not TurnStatus.RUNNING and last and after_sequence < turn.last_sequence:
        reply = turn.reply_message_id and await get_message(tx, message_id=turn.reply_message_id)
        events.append(
            TurnFinished(
                turn_id, turn.last_sequence, turn.status, reply or None, turn.stop_reason, turn.usage, turn.error
            )
        )
    return turn, events


async def list_running_turns(tx: SystemTransaction) -> list[tuple[str, str]]:
    """(vault id, turn id) of every running turn."""
    return [(vault_id, turn_id) for vault_id, turn_id in await tx.all(LIST_RUNNING_TURNS)]
