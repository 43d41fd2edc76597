"""Turns and their events."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import orjson

from metamorphd.errors import (
    BranchBusy,
    MessageNotFound,
    SequenceAhead,
    SessionNotFound,
    TooManyTurns,
    TurnNotFound,
)
from metamorphd.models import (
    Message,
    Role,
    StopReason,
    TextBlock,
    TextDelta,
    Turn,
    TurnError,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    TurnStatus,
    Usage,
)
from metamorphd.store.database import Row, SystemTransaction, Transaction, point_read
from metamorphd.store.messages import create_message, get_branch, get_message
from metamorphd.store.requests import RequestKey, claim_request

# A running turn's newest event is told by `events`, so that a delta costs one insert and no update.
COLUMNS = """
    turn_id, session_id, user_message_id, reply_message_id, status, stop_reason,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, model, model_calls, error,
    CASE WHEN status = 'RUNNING' THEN COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = turns.turn_id),
        last_sequence) ELSE last_sequence END,
    creator, create_time, finish_time
"""

GET_SETTINGS = """
SELECT sessions.model, vaults.default_model, current_leaf_message_id
FROM sessions JOIN vaults ON vaults.vault_id = :vault_id
WHERE sessions.vault_id = :vault_id AND session_id = :session_id
"""
GET_PROMPT = """
SELECT sessions.system_prompt, vaults.system_prompt
FROM sessions JOIN vaults ON vaults.vault_id = :vault_id
WHERE sessions.vault_id = :vault_id AND session_id = :session_id
"""
GET_RUNNING = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id AND status = 'RUNNING'
    AND (:user_message_id IS NULL OR user_message_id = :user_message_id)
ORDER BY turn_id
LIMIT 1
"""
COUNT_RUNNING = "SELECT COUNT(*) FROM turns WHERE vault_id = :vault_id AND status = 'RUNNING'"
CREATE_TURN = (
    """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, status, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, model, model_calls, last_sequence, creator, create_time)
VALUES (:vault_id, :turn_id, :session_id, :user_message_id, 'RUNNING', 0, 0, 0, 0, :model, 0, 1, :creator, :now)
RETURNING """
    + COLUMNS
    + """
"""
)
GET_TURN = "SELECT " + COLUMNS + " FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
# From a running turn only: one that was ended or deleted elsewhere takes no more.
CREATE_EVENT = """
INSERT INTO events (vault_id, turn_id, sequence, block_index, text)
SELECT vault_id, turn_id, :sequence, :block_index, :text FROM turns
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
"""
LIST_EVENTS = """
SELECT sequence, block_index, text FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id AND sequence > :after_sequence
ORDER BY sequence
LIMIT :limit
"""
GET_TEXT = """
SELECT block_index, string_agg(text, '' ORDER BY sequence) FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id
GROUP BY block_index
ORDER BY block_index
"""
FINISH_TURN = """
UPDATE turns
SET status = :status, stop_reason = :stop_reason, reply_message_id = :reply_message_id, error = :error,
    input_tokens = :input_tokens, output_tokens = :output_tokens, cache_read_tokens = :cache_read_tokens,
    cache_write_tokens = :cache_write_tokens, model_calls = :model_calls, finish_time = :now,
    last_sequence = 1 + COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = :turn_id),
        last_sequence)
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
RETURNING last_sequence
"""
LIST_RUNNING_TURNS = "SELECT vault_id, turn_id FROM turns WHERE status = 'RUNNING'"


def _turn(row: Row) -> Turn:
    return Turn(
        turn_id=row[0],
        session_id=row[1],
        user_message_id=row[2],
        reply_message_id=row[3],
        status=TurnStatus(row[4]),
        stop_reason=row[5] and StopReason(row[5]),
        usage=Usage(*row[6:10]),
        model=row[10],
        model_calls=row[11],
        error=row[12] and TurnError(**orjson.loads(row[12])),
        last_sequence=row[13],
        creator=row[14],
        create_time=row[15],
        finish_time=row[16],
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
    parent: str | None,
    model: str,
    default_model: str,
    max_running_turns: int,
    request: RequestKey | None,
) -> Turn:
    """Stores `message` and a running turn that will answer it, or answers the turn that `request` made.

    `parent`: None is the current leaf, empty a new root, otherwise a message of the session; `message` has none yet.
    An empty `model` is the session's, then the vault's, then `default_model`. Raises SessionNotFound, MessageNotFound
    for the parent, BranchBusy, TooManyTurns, RequestIdReused, and TurnNotFound if the turn that `request` made is gone.
    """
    if request is not None:
        made = await claim_request(tx, request=request, resource_id=message.turn_id, now=message.create_time)
        if made != message.turn_id:
            return await get_turn(tx, turn_id=made)
    settings = await tx.one(GET_SETTINGS, session_id=message.session_id)
    if settings is None:
        raise SessionNotFound(session_id=message.session_id)
    session_model, vault_model, leaf = settings
    busy = await tx.one(GET_RUNNING, session_id=message.session_id, user_message_id=parent)
    if busy is not None:
        raise BranchBusy(turn_id=busy[0])
    if parent:
        found = await get_message(tx, message_id=parent)
        if found.session_id != message.session_id:
            raise MessageNotFound(message_id=parent)
    running = await tx.one(COUNT_RUNNING)
    if running is not None and running[0] >= max_running_turns:
        raise TooManyTurns(limit=max_running_turns, retry_delay=1.0)
    await create_message(tx, message=replace(message, parent_message_id=leaf if parent is None else parent or None))
    row = await tx.one(
        CREATE_TURN,
        turn_id=message.turn_id,
        session_id=message.session_id,
        user_message_id=message.message_id,
        model=model or session_model or vault_model or default_model,
        creator=message.creator,
        now=message.create_time,
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


async def get_prompt(tx: Transaction, *, turn: Turn) -> tuple[str, tuple[Message, ...]]:
    """What a turn asks the model: the system prompt, and the branch that ends with its user message."""
    prompts = await tx.one(GET_PROMPT, session_id=turn.session_id)
    if prompts is None:
        raise SessionNotFound(session_id=turn.session_id)
    branch = await get_branch(tx, session_id=turn.session_id, leaf_message_id=turn.user_message_id)
    return prompts[0] or prompts[1], branch


async def append_events(tx: Transaction, *, deltas: Sequence[TextDelta]) -> None:
    """Appends a running turn's next events. Raises TurnNotFound when it is not running any more."""
    for delta in deltas:
        created = await tx.run(
            CREATE_EVENT,
            turn_id=delta.turn_id,
            sequence=delta.sequence,
            block_index=delta.block_index,
            text=delta.text,
        )
        if not created:
            raise TurnNotFound(turn_id=delta.turn_id)


async def finish_turn(
    tx: Transaction,
    *,
    turn: Turn,
    deltas: Sequence[TextDelta],
    status: TurnStatus,
    stop_reason: StopReason | None,
    usage: Usage,
    model_calls: int,
    error: TurnError | None,
    reply_message_id: str,
    now: int,
) -> TurnFinished:
    """Appends the last deltas and ends a running turn; its events' text becomes the reply, stored if there is any.

    Raises TurnNotFound when it is not running any more.
    """
    await append_events(tx, deltas=deltas)
    blocks = await tx.all(GET_TEXT, turn_id=turn.turn_id)
    reply = None
    if blocks:
        reply = Message(
            message_id=reply_message_id,
            session_id=turn.session_id,
            parent_message_id=turn.user_message_id,
            role=Role.ASSISTANT,
            content=tuple(TextBlock(text) for _, text in blocks),
            turn_id=turn.turn_id,
            creator=turn.creator,
            model=turn.model,
            usage=usage,
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
        **asdict(usage),
    )
    if finished is None:
        raise TurnNotFound(turn_id=turn.turn_id)
    if reply is not None:
        await create_message(tx, message=reply)
    return TurnFinished(turn.turn_id, finished[0], status, reply, stop_reason, usage, error)


async def list_events(
    tx: Transaction, *, turn_id: str, after_sequence: int, limit: int
) -> tuple[Turn, list[TurnEvent]]:
    """A turn and its next events, about `limit` of them; the last of a finished one is its TurnFinished.

    Raises TurnNotFound, SequenceAhead.
    """
    turn = await get_turn(tx, turn_id=turn_id)
    if after_sequence > turn.last_sequence:
        raise SequenceAhead(last_sequence=turn.last_sequence)
    events: list[TurnEvent] = []
    rows = await tx.all(LIST_EVENTS, turn_id=turn_id, after_sequence=after_sequence, limit=limit)
    if after_sequence < 1:
        events.append(started_event(turn))
    events.extend(TextDelta(turn_id, *row) for row in rows)
    if turn.status is not TurnStatus.RUNNING and len(rows) < limit and after_sequence < turn.last_sequence:
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
