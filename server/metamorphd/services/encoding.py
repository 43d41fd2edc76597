"""Models to protobuf and back. Wherever a value goes, it goes through here."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph.admin.v1 import admin_service_pb2
from metamorph.chat.v1 import attachment_pb2, chat_service_pb2, message_pb2, session_pb2, turn_pb2

from metamorphd.models import (
    Attachment,
    Compaction,
    Message,
    MessageMatch,
    Revocation,
    Role,
    Session,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolUse,
    Turn,
    TurnError,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    TurnStatus,
    Usage,
    UsageUpdate,
)
from metamorphd.services.content import content_to_proto

ROLES = {role: message_pb2.Role.Value(f"ROLE_{role}") for role in Role}
STATUSES = {status: turn_pb2.TurnStatus.Value(f"TURN_STATUS_{status}") for status in TurnStatus}
STOP_REASONS = {reason: turn_pb2.StopReason.Value(f"STOP_REASON_{reason}") for reason in StopReason}


def timestamp(microseconds: int | None) -> Timestamp | None:
    """Microseconds since the epoch as a Timestamp."""
    if microseconds is None:
        return None
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def microseconds(time: Timestamp) -> int:
    """A Timestamp as microseconds since the epoch."""
    return time.seconds * 1_000_000 + time.nanos // 1000


def duration(microseconds: int) -> Duration:
    """Microseconds as a Duration."""
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def session_to_proto(session: Session) -> session_pb2.Session:
    """All of a session."""
    return session_pb2.Session(
        session_id=session.session_id,
        title=session.title,
        model=session.model,
        system_prompt=session.system_prompt,
        metadata=session.metadata,
        archived=session.archived,
        creator=session.creator,
        message_count=session.message_count,
        current_leaf_message_id=session.current_leaf_message_id or "",
        running_turn_ids=session.running_turn_ids,
        create_time=timestamp(session.create_time),
        update_time=timestamp(session.update_time),
        last_message_time=timestamp(session.last_message_time),
        etag=str(session.revision),
    )


def message_to_proto(message: Message) -> message_pb2.Message:
    """All of a message."""
    return message_pb2.Message(
        message_id=message.message_id,
        session_id=message.session_id,
        parent_message_id=message.parent_message_id or "",
        role=ROLES[message.role],
        content=content_to_proto(message.content),
        turn_id=message.turn_id,
        creator=message.creator,
        model=message.model,
        usage=None if message.usage is None else usage_to_proto(message.usage),
        create_time=timestamp(message.create_time),
        delete_time=timestamp(message.delete_time),
    )


def match_to_proto(match: MessageMatch) -> chat_service_pb2.MessageMatch:
    """All of a match."""
    return chat_service_pb2.MessageMatch(
        message_id=match.message_id,
        session_id=match.session_id,
        role=ROLES[match.role],
        create_time=timestamp(match.create_time),
        snippet=match.snippet,
        highlights=[chat_service_pb2.TextRange(start=part.start, end=part.end) for part in match.highlights],
    )


def attachment_to_proto(attachment: Attachment) -> attachment_pb2.Attachment:
    """All of an attachment but its bytes."""
    return attachment_pb2.Attachment(
        attachment_id=attachment.attachment_id,
        media_type=attachment.media_type,
        size_bytes=attachment.size,
        sha256=attachment.sha256,
        create_time=timestamp(attachment.create_time),
    )


def usage_to_proto(usage: Usage) -> message_pb2.Usage:
    """Token counts and their price."""
    return message_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_usd_nanos=usage.cost_usd_nanos,
    )


def status_from_proto(status: turn_pb2.TurnStatus.ValueType) -> TurnStatus | None:
    """A status, None for an unspecified one."""
    name = turn_pb2.TurnStatus.Name(status).removeprefix("TURN_STATUS_")
    return TurnStatus(name) if status else None


def turn_to_proto(turn: Turn) -> turn_pb2.Turn:
    """All of a turn."""
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
    )


def event_to_proto(event: TurnEvent) -> turn_pb2.TurnEvent:
    """All of an event."""
    proto = turn_pb2.TurnEvent(turn_id=event.turn_id, sequence=event.sequence)
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
        case Compaction():
            proto.compaction.block_index = event.block_index
            proto.compaction.summary = event.block.summary
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
                )
            )
    return proto


def _stop_reason(reason: StopReason | None) -> turn_pb2.StopReason.ValueType:
    return turn_pb2.STOP_REASON_UNSPECIFIED if reason is None else STOP_REASONS[reason]


def _turn_error(error: TurnError | None) -> turn_pb2.TurnError | None:
    if error is None:
        return None
    delay = None if error.retry_delay is None else duration(int(error.retry_delay * 1_000_000))
    return turn_pb2.TurnError(reason=error.reason, message=error.message, metadata=error.metadata, retry_delay=delay)


def revocation_to_proto(revocation: Revocation) -> admin_service_pb2.Revocation:
    """All of a revocation."""
    proto = admin_service_pb2.Revocation(
        revocation_id=revocation.revocation_id,
        vault_id=revocation.vault_id,
        note=revocation.note,
        creator=revocation.creator,
        create_time=timestamp(revocation.create_time),
    )
    if revocation.token_id is not None:
        proto.token_id = revocation.token_id
    if revocation.user_id is not None:
        proto.user_tokens.user_id = revocation.user_id
        proto.user_tokens.issued_before.CopyFrom(timestamp(revocation.issued_before) or Timestamp())
    return proto
