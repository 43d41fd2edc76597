"""Turns and their events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from metamorphd.models.content import CompactionBlock, ToolResultBlock, ToolUseBlock
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Message
from metamorphd.models.usage import Usage


class TurnStatus(StrEnum):
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class StopReason(StrEnum):
    END_TURN = "END_TURN"
    MAX_TOKENS = "MAX_TOKENS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    TOOL_USE = "TOOL_USE"
    PAUSE = "PAUSE"
    REFUSAL = "REFUSAL"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class StopDetails:
    """Why the model declined to reply, in the provider's words. Either may be empty."""

    category: str
    explanation: str


@dataclass(frozen=True, slots=True)
class TurnError:
    """Why a turn did not complete. `retry_delay` is in seconds, None if unknown or if waiting does not help."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn. `pruned`: the events between its first and its last are deleted, or about to be.

    `labels` are those that its usage counts towards, beside its vault and its creator.
    """

    turn_id: str
    session_id: str
    user_message_id: str
    reply_message_id: str | None
    status: TurnStatus
    stop_reason: StopReason | None
    usage: Usage
    model: str
    model_calls: int
    error: TurnError | None
    last_sequence: int
    creator: str
    create_time: int
    finish_time: int | None
    options: EffectiveOptions
    pruned: bool
    labels: Mapping[str, str]
    stop_details: StopDetails | None = None


@dataclass(frozen=True, slots=True)
class TurnStarted:
    turn_id: str
    sequence: int
    session_id: str
    user_message_id: str
    model: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    turn_id: str
    sequence: int
    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    turn_id: str
    sequence: int
    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    turn_id: str
    sequence: int
    block_index: int
    block: ToolUseBlock


@dataclass(frozen=True, slots=True)
class ToolResult:
    turn_id: str
    sequence: int
    block_index: int
    block: ToolResultBlock


@dataclass(frozen=True, slots=True)
class Compaction:
    turn_id: str
    sequence: int
    block_index: int
    block: CompactionBlock


@dataclass(frozen=True, slots=True)
class MemoriesRecalled:
    turn_id: str
    sequence: int
    memory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UsageUpdate:
    turn_id: str
    sequence: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class TurnFinished:
    turn_id: str
    sequence: int
    status: TurnStatus
    message: Message | None
    stop_reason: StopReason | None
    usage: Usage
    error: TurnError | None
    stop_details: StopDetails | None = None


# Events between a turn's first and last.
MiddleEvent = TextDelta | ThinkingDelta | ToolUse | ToolResult | Compaction | MemoriesRecalled | UsageUpdate
TurnEvent = TurnStarted | MiddleEvent | TurnFinished
