"""Memories, and how they are ranked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# By how much of what is missing to 1 a repetition raises importance.
REPEATED_SHARE = 0.1


class MemoryType(StrEnum):
    """The kinds of memories. The API has the same names."""

    EPISODIC = "episodic"
    SEMANTIC = "semantic"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory to store. Empty IDs mean that it comes from no session, or no message. `path` is that of a file."""

    type: MemoryType
    content: str
    importance: float = 0.5
    metadata: Mapping[str, str] = field(default_factory=dict)
    expire_time: int | None = None
    session_id: str = ""
    message_id: str = ""
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory. `superseded_by` is None if it is in force."""

    memory_id: str
    type: MemoryType
    content: str
    importance: float
    metadata: Mapping[str, str]
    expire_time: int | None
    session_id: str | None
    message_id: str | None
    path: str | None
    superseded_by: str | None
    creator: str
    create_time: int
    update_time: int
    last_use_time: int
    revision: int


@dataclass(frozen=True, slots=True)
class MemoryChanges:
    """Changes of a memory; None keeps a value. An `expire_time` of 0 has it not expire."""

    type: MemoryType | None = None
    content: str | None = None
    importance: float | None = None
    metadata: Mapping[str, str] | None = None
    expire_time: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryMatch:
    """A memory that was found, and by what it is ranked: numbers from 0 to 1."""

    memory: Memory
    relevance: float
    recency: float

    @property
    def score(self) -> float:
        """Returns the number by which matches are ordered, the highest first."""
        return score(self.relevance, self.memory.importance, self.recency)


def score(relevance: float, importance: float, recency: float) -> float:
    """Returns the blend of three numbers from 0 to 1. Importance and recency can at most triple what relevance gives.

    The three are those of "Generative Agents" (Park et al., 2023). There they are added; multiplied, what has little to
    do with the query is never first because it is important.
    """
    return relevance * (1 + importance + recency) / 3


def recency(age: int, half_life: int) -> float:
    """Returns 1 for an age of 0, and half as much for each half-life."""
    return float(0.5 ** (max(0, age) / half_life))


def raised(importance: float, given: float) -> float:
    """Returns the importance of a memory that is repeated with another one: that of the higher, and some more."""
    higher = max(importance, given)
    return higher + (1 - higher) * REPEATED_SHARE
