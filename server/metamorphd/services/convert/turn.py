"""Converts turns and their events to protobuf and back."""

from typing import TypeVar

from metamorph_client.chat.v1 import chat_service_pb2, turn_pb2

from metamorphd.models.content import text_of
from metamorphd.models.turn import (
    Compaction,
    MemoriesRecalled,
    StopDetails,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    Turn,
    TurnError,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    TurnStatus,
    UsageUpdate,
)
from metamorphd.services.convert.message import message_to_proto
from metamorphd.services.convert.time import duration, timestamp
from metamorphd.services.convert.usage import usage_to_proto

ResponseT = TypeVar(
    "ResponseT",
    chat_service_pb2.SendMessageResponse,
    chat_service_pb2.StreamTurnResponse,
    chat_service_pb2.RegenerateReplyResponse,
)

STATUSES = {status: turn_pb2.TurnStatus.Value(f"TURN_STATUS_{status}") for status in TurnStatus}
STOP_REASONS = {reason: turn_pb2.StopReason.Value(f"STOP_REASON_{reason}") for reason in StopReason}


def status_from_proto(status: turn_pb2.TurnStatus.ValueType) -> TurnStatus | None:
    """Returns a status, or None if it is unspecified."""
    name = turn_pb2.TurnStatus.Name(status).removeprefix("TURN_STATUS_")
    return TurnStatus(name) if status else None


def turn_to_proto(turn: Turn) -> turn_pb2.Turn:
    """Returns a turn."""
    return turn_pb2.Turn(
        turn_id=turn.turn_id,
        session_id=turn.session_id,
        user_message_id=turn.user_message_id,
        reply_message_id=turn.reply_message_id or "",
        status=STATUSES[turn.status],
        stop_reason=_stop_reason(turn.stop_reason),
        usage=usage_to_proto(turn.usage),
        model=turn.model,
        model_calls=turn.model_calls,
        error=_turn_error(turn.error),
        last_sequence=turn.last_sequence,
        creator=turn.creator,
        create_time=timestamp(turn.create_time),
        finish_time=timestamp(turn.finish_time),
        stop_details=_stop_details(turn.stop_details),
        labels=turn.labels,
    )


def with_event(response: ResponseT, event: TurnEvent) -> ResponseT:
    """Returns the response with the event set. Set in place, because a copy would double the cost."""
    proto = response.event
    proto.turn_id = event.turn_id
    proto.sequence = event.sequence
    match event:
        case TextDelta():
            proto.text_delta.block_index = event.block_index
            proto.text_delta.text = event.text
        case ThinkingDelta():
            proto.thinking_delta.block_index = event.block_index
            proto.thinking_delta.text = event.text
        case ToolUse():
            proto.tool_use.block_index = event.block_index
            proto.tool_use.tool_use_id = event.block.tool_use_id
            proto.tool_use.name = event.block.name
            proto.tool_use.input = event.block.input
        case ToolResult():
            proto.tool_result.block_index = event.block_index
            proto.tool_result.tool_use_id = event.block.tool_use_id
            proto.tool_result.text = text_of(tuple(event.block.content))
            proto.tool_result.is_error = event.block.is_error
        case Compaction():
            proto.compaction.block_index = event.block_index
            proto.compaction.summary = event.block.summary
        case MemoriesRecalled():
            proto.memories_recalled.memory_ids.extend(event.memory_ids)
        case UsageUpdate():
            proto.usage_update.usage.CopyFrom(usage_to_proto(event.usage))
        case TurnStarted():
            proto.turn_started.session_id = event.session_id
            proto.turn_started.user_message_id = event.user_message_id
            proto.turn_started.model = event.model
        case TurnFinished():
            proto.turn_finished.CopyFrom(
                turn_pb2.TurnFinished(
                    status=STATUSES[event.status],
                    message=None if event.message is None else message_to_proto(event.message),
                    stop_reason=_stop_reason(event.stop_reason),
                    usage=usage_to_proto(event.usage),
                    error=_turn_error(event.error),
                    stop_details=_stop_details(event.stop_details),
                )
            )
    return response


def _stop_reason(reason: StopReason | None) -> turn_pb2.StopReason.ValueType:
    return turn_pb2.STOP_REASON_UNSPECIFIED if reason is None else STOP_REASONS[reason]


def _stop_details(details: StopDetails | None) -> turn_pb2.StopDetails | None:
    if details is None:
        return None
    return turn_pb2.StopDetails(category=details.category, explanation=details.explanation)


def _turn_error(error: TurnError | None) -> turn_pb2.TurnError | None:
    if error is None:
        return None
    delay = None if error.retry_delay is None else duration(int(error.retry_delay * 1_000_000))
    return turn_pb2.TurnError(reason=error.reason, message=error.message, metadata=error.metadata, retry_delay=delay)
