"""Converts messages to protobuf."""

from metamorph_client.chat.v1 import chat_service_pb2, message_pb2

from metamorphd.models.content import CONTENT_BYTES, content_within
from metamorphd.models.message import Message, MessageMatch, Role
from metamorphd.services.convert.content import content_to_proto
from metamorphd.services.convert.time import timestamp
from metamorphd.services.convert.usage import usage_to_proto

ROLES = {role: message_pb2.Role.Value(f"ROLE_{role}") for role in Role}


def message_to_proto(message: Message) -> message_pb2.Message:
    """Returns a message. Content of more than 3 MiB, as earlier versions stored, is cut: it could not be received."""
    content = content_within(message.content, CONTENT_BYTES)
    return message_pb2.Message(
        message_id=message.message_id,
        session_id=message.session_id,
        parent_message_id=message.parent_message_id or "",
        role=ROLES[message.role],
        content=content_to_proto(content),
        turn_id=message.turn_id,
        creator=message.creator,
        model=message.model,
        usage=None if message.usage is None else usage_to_proto(message.usage),
        create_time=timestamp(message.create_time),
        delete_time=timestamp(message.delete_time),
        partial=message.partial or content is not message.content,
    )


def match_to_proto(match: MessageMatch) -> chat_service_pb2.MessageMatch:
    """Returns a search result."""
    return chat_service_pb2.MessageMatch(
        message_id=match.message_id,
        session_id=match.session_id,
        role=ROLES[match.role],
        create_time=timestamp(match.create_time),
        snippet=match.snippet,
        highlights=[chat_service_pb2.TextRange(start=part.start, end=part.end) for part in match.highlights],
    )
