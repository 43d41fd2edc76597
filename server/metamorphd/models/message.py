"""Messages and search results."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from metamorphd.models.content import CompactionBlock, Content, Part
from metamorphd.models.usage import Usage


class Role(StrEnum):
    USER = "USER"
    ASSISTANT = "ASSISTANT"


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `partial`: a reply whose turn ended with a status other than COMPLETED.

    `refused`: a reply that the model declined to give, or a user's message whose newest reply is one, or which the
    provider has rejected since. `rejected`: the provider has rejected a later message because of this one.
    """

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
    refused: bool = False
    rejected: bool = False

    @property
    def in_branch(self) -> "BranchMessage":
        """Returns what a prompt needs of it."""
        return BranchMessage(
            self.message_id,
            self.role,
            self.content,
            is_root=self.parent_message_id is None,
            refused=self.refused,
            rejected=self.rejected,
        )


@dataclass(frozen=True, slots=True)
class BranchMessage:
    """The part of a message that a prompt needs. A root follows no other one. Its flags are those of a message."""

    message_id: str
    role: Role
    content: Content
    is_root: bool
    refused: bool = False
    rejected: bool = False

    @property
    def opens_prompt(self) -> bool:
        """Returns whether a prompt can begin with it: it is a user's, and more than the results of tools."""
        return self.role is Role.USER and any(isinstance(block, Part) for block in self.content)

    @property
    def summarizes(self) -> bool:
        """Returns whether it has a summary, which replaces everything before it in a prompt."""
        return not (self.refused or self.rejected) and any(isinstance(block, CompactionBlock) for block in self.content)


@dataclass(frozen=True, slots=True)
class Branch:
    """The end of a branch, oldest first. `size` is that of its stored content in bytes.

    `messages` is None if they were not read because of their size. They can be read once, since to decode thousands
    takes long and is left to the reader.
    """

    size: int
    messages: Iterable[BranchMessage] | None


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
