"""Ending turns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import orjson

from metamorphd.errors import (
    TurnNotFound,
)
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.content import ThinkingBlock
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import (
    MiddleEvent,
    StopDetails,
    StopReason,
    Turn,
    TurnError,
    TurnFinished,
    TurnStatus,
)
from metamorphd.models.usage import Usage
from metamorphd.store.attachments import reject_attachment
from metamorphd.store.changes import append_change
from metamorphd.store.database import Transaction, concludes
from metamorphd.store.messages import create_message, reject_message
from metamorphd.store.turns.events import append_events, reply_content
from metamorphd.store.usage import count_turn

FINISH_TURN = """
UPDATE turns
SET status = :status, stop_reason = :stop_reason, stop_details = :stop_details,
    reply_message_id = :reply_message_id, error = :error,
    input_tokens = :input_tokens, output_tokens = :output_tokens, cache_read_tokens = :cache_read_tokens,
    cache_write_tokens = :cache_write_tokens, cost_usd_nanos = :cost_usd_nanos, estimated = :estimated,
    model_calls = :model_calls, finish_time = :now,
    last_sequence = 1 + COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = :turn_id),
        last_sequence)
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
RETURNING last_sequence
"""
# Of the newest reply, for messages that follow the user's. So is what the provider rejected.
MARK_ASKED = """
UPDATE messages SET refused = :refused, rejected = 0
WHERE vault_id = :vault_id AND message_id = :message_id AND (refused <> :refused OR rejected = 1)
"""

ENDED = {
    TurnStatus.COMPLETED: ChangeVerb.COMPLETED,
    TurnStatus.CANCELLED: ChangeVerb.CANCELLED,
    TurnStatus.INTERRUPTED: ChangeVerb.INTERRUPTED,
    TurnStatus.FAILED: ChangeVerb.FAILED,
}


@concludes
async def finish_turn(
    tx: Transaction,
    *,
    turn: Turn,
    events: Sequence[MiddleEvent],
    closed: Mapping[int, ThinkingBlock],
    status: TurnStatus,
    stop_reason: StopReason | None,
    stop_details: StopDetails | None = None,
    usage: Usage,
    model_calls: int,
    error: TurnError | None,
    reply_message_id: str,
    now: int,
) -> TurnFinished:
    """Appends the last events and ends a running turn; what its events add up to is the reply, stored if it is any.

    `closed` is as for `reply_content`. Raises TurnNotFound when it is not running any more.
    """
    await append_events(tx, events=events)
    content = await reply_content(tx, turn_id=turn.turn_id, closed=closed)
    error = _blaming(error, turn, reply_message_id)
    reply = None
    refused = stop_reason is StopReason.REFUSAL
    # Of a turn that fails, thinking alone is no reply: the next message follows the user's. A refusal is one without
    # content too.
    spoken = any(not isinstance(block, ThinkingBlock) for block in content)
    if refused or (content and (status is not TurnStatus.FAILED or spoken)):
        reply = Message(
            message_id=reply_message_id,
            session_id=turn.session_id,
            parent_message_id=turn.user_message_id,
            role=Role.ASSISTANT,
            content=content,
            turn_id=turn.turn_id,
            creator=turn.creator,
            model=turn.model,
            usage=usage,
            create_time=now,
            partial=status is not TurnStatus.COMPLETED,
            refused=refused,
        )
    finished = await tx.one(
        FINISH_TURN,
        turn_id=turn.turn_id,
        status=status,
        stop_reason=stop_reason,
        stop_details=None if stop_details is None else orjson.dumps(stop_details).decode(),
        reply_message_id=None if reply is None else reply.message_id,
        error=None if error is None else orjson.dumps(error).decode(),
        model_calls=model_calls,
        now=now,
        **asdict(usage),
    )
    if finished is None:
        raise TurnNotFound(turn_id=turn.turn_id)
    await count_turn(tx, turn=turn, usage=usage, now=now)
    blamed = {} if error is None else error.metadata
    for attachment_id in filter(None, blamed.get("attachment_ids", "").split(",")):
        await reject_attachment(tx, attachment_id=attachment_id)
    if reply is not None:
        await create_message(tx, message=reply)
    if "message_id" in blamed:
        await reject_message(tx, message_id=blamed["message_id"])
    rejected = blamed.get("field", "").startswith("content")
    if (reply is not None or rejected) and blamed.get("message_id") != turn.user_message_id:
        await tx.run(MARK_ASKED, message_id=turn.user_message_id, refused=refused or rejected)
    await append_change(tx, resource=ChangedResource.TURN, resource_id=turn.turn_id, verb=ENDED[status], now=now)
    return TurnFinished(turn.turn_id, finished.last_sequence, status, reply, stop_reason, usage, error, stop_details)


def _blaming(error: TurnError | None, turn: Turn, reply_message_id: str) -> TurnError | None:
    """Returns an error that names the reply by its ID, which it has from now on, if it names what was said."""
    if error is None or error.metadata.get("message_id") != turn.turn_id:
        return error
    return replace(error, metadata={**error.metadata, "message_id": reply_message_id})
