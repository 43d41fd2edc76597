"""Messages, and messages that a search found."""

from dataclasses import dataclass
from enum import StrEnum

from metamorphd.models.content import Content
from metamorphd.models.usage import Usage

# Enum members are named like the proto values without their prefix, and stored under that name.


class Role(StrEnum):
    USER = "USER"
    ASSISTANT = "ASSISTANT"


@dataclass(frozen=True, slots=True)
class Message:
    """`partial`: a reply whose turn ended otherwise than COMPLETED."""

    message_id: str
    session_id: str
    parent_message_id: str | None
    role: Role
    content: Content
    turn_id: str
    creator: str
    model: str
    usage: Usage | None
    create_time: int
    delete_time: int | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Highlight:
    """A part of a text, from `start` up to but not including `end`, in Unicode code points."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MessageMatch:
    """A message that was found, and the part of its text that fits best."""

    message_id: str
    session_id: str
    role: Role
    create_time: int
    snippet: str
    highlights: tuple[Highlight, ...]
