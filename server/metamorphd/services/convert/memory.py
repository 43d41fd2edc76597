"""Converts memories to protobuf and back."""

from typing import Any

from metamorph_client.vault.v1 import memory_pb2

from metamorphd.errors import FieldViolation, RequestInvalid
from metamorphd.models.memory import Memory, MemoryChanges, MemoryMatch, MemoryType, NewMemory
from metamorphd.services.convert.time import microseconds, timestamp

TYPES = {type_: memory_pb2.MemoryType.Value(f"MEMORY_TYPE_{type_.name}") for type_ in MemoryType}
BY_NUMBER = {number: type_ for type_, number in TYPES.items()}
IMPORTANCE = 0.5


def memory_to_proto(memory: Memory) -> memory_pb2.Memory:
    """Returns a memory."""
    return memory_pb2.Memory(
        memory_id=memory.memory_id,
        type=TYPES[memory.type],
        content=memory.content,
        importance=memory.importance,
        metadata=memory.metadata,
        expire_time=timestamp(memory.expire_time),
        session_id=memory.session_id or "",
        message_id=memory.message_id or "",
        superseded_by=memory.superseded_by or "",
        creator=memory.creator,
        create_time=timestamp(memory.create_time),
        update_time=timestamp(memory.update_time),
        last_use_time=timestamp(memory.last_use_time),
        etag=str(memory.revision),
    )


def match_to_proto(match: MemoryMatch) -> memory_pb2.MemoryMatch:
    """Returns a memory that was found."""
    return memory_pb2.MemoryMatch(
        memory=memory_to_proto(match.memory), score=match.score, relevance=match.relevance, recency=match.recency
    )


def memory_type(number: "memory_pb2.MemoryType.ValueType") -> MemoryType | None:
    """Returns a type, or None for all of them."""
    return BY_NUMBER.get(number)


def new_memory_from_proto(memory: memory_pb2.Memory) -> NewMemory:
    """Returns the memory to store. The request has passed the rules of its proto."""
    return NewMemory(
        type=BY_NUMBER[memory.type],
        content=memory.content,
        importance=_importance(memory),
        metadata=dict(memory.metadata),
        expire_time=_expire_time(memory),
        session_id=memory.session_id,
        message_id=memory.message_id,
    )


def changes_from_proto(memory: memory_pb2.Memory, masked: dict[str, Any]) -> MemoryChanges:
    """Returns the changes of the fields that `masked` names. Raises RequestInvalid for an empty type or content."""
    for name in ("type", "content"):
        if name in masked and not masked[name]:
            raise RequestInvalid(violations=[FieldViolation(f"memory.{name}", "must not be empty")])
    return MemoryChanges(
        type=memory_type(masked.get("type", memory_pb2.MEMORY_TYPE_UNSPECIFIED)),
        content=masked.get("content"),
        importance=_importance(memory) if "importance" in masked else None,
        metadata=dict(memory.metadata) if "metadata" in masked else None,
        expire_time=_expire_time(memory) or 0 if "expire_time" in masked else None,
    )


def _importance(memory: memory_pb2.Memory) -> float:
    return memory.importance if memory.HasField("importance") else IMPORTANCE


def _expire_time(memory: memory_pb2.Memory) -> int | None:
    return microseconds(memory.expire_time) if memory.HasField("expire_time") else None
