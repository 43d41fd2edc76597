"""Messages and search results."""

from dataclasses import dataclass
from enum import StrEnum

from metamorphd.models.content import Content
from metamorphd.models.usage import Usage


class Role(StrEnum):
    USER = "USER"
    ASSISTANT = "ASSISTANT"


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `partial`: a reply whose turn ended with a status other than COMPLETED."""

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
    """A range of a text, from `start` (inclusive) to `end` (exclusive), in Unicode code points."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MessageMatch:
    """A message that matches a search, with the best matching part of its text."""

    message_id: str
    session_id: str
    role: Role
    create_time: int
    snippet: str
    highlights: tuple[Highlight, ...]
