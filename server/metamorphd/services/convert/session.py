"""Sessions to protobuf."""

from metamorph.chat.v1 import session_pb2

from metamorphd.models.session import Session
from metamorphd.services.convert.time import timestamp


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
