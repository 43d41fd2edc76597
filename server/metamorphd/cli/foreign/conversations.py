"""Conversations, which are trees of messages: the exports of other systems have them in common."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Unreadable(Exception):
    """A file is not an export of the system that it is said to be of. The message says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """A message. `images` are their bytes. One without text and images is only there for its place."""

    node_id: str
    parent_id: str | None
    role: str
    text: str
    model: str
    create_time: int | None
    images: tuple[bytes, ...] = ()

    @property
    def empty(self) -> bool:
        """Returns whether there is nothing to take along."""
        return self.role not in ("USER", "ASSISTANT") or not (self.text.strip() or self.images)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `current_id` is the message that was shown last, empty if that is unknown."""

    conversation_id: str
    title: str
    create_time: int | None
    update_time: int | None
    current_id: str
    nodes: Mapping[str, Node]
    archived: bool = False
    system_prompt: str = ""
    model: str = ""


@dataclass
class Foreign(ABC):
    """An export of another system. `lost` counts what it has and cannot be taken along."""

    path: Path
    lost: Counter[str] = field(default_factory=Counter)

    @abstractmethod
    def conversations(self) -> Iterator[Conversation]:
        """Yields the conversations. Raises Unreadable."""

    def lose(self, what: str) -> None:
        """Counts something that cannot be taken along."""
        self.lost[what] += 1
