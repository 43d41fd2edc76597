"""What the parts of the server say to each other: frozen values, no behaviour.

Times are integers, microseconds since the epoch, UTC. Ids are opaque text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")

# Enum members are named like the proto values without their prefix, and stored under that name.


class Role(StrEnum):
    USER = "USER"
    ASSISTANT = "ASSISTANT"


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
class Caller:
    """Who makes a call, as the token or dev mode has it.

    `token_id` is the token's `jti`, `issue_time` its `iat`; None where it has none. `expire_time` is None where nothing
    expires.
    """

    vault_id: str
    user_id: str
    email: str
    permissions: frozenset[str]
    operator: bool
    auth_method: str
    token_id: str | None
    issue_time: int | None
    expire_time: int | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that count no more: the one with `token_id`, or those of `user_id` issued before `issued_before`."""

    revocation_id: str
    vault_id: str
    token_id: str | None
    user_id: str | None
    issued_before: int | None
    note: str
    creator: str
    create_time: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What a vault may use up in a day or a month (UTC): None is no limit, 0 is nothing."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_usd_nanos_per_day: int | None = None
    cost_usd_nanos_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How far one limit of a budget is used up. `budget` is its name in Budget; what running turns hold is reserved."""

    budget: str
    limit: int
    used: int
    reserved: int
    reset_time: int

    @property
    def left(self) -> int:
        """What is neither used nor reserved, at least 0."""
        return max(0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True)
class Vault:
    """`budget` is the vault's own, `operator_budget` the operator's: of each limit the lower one counts."""

    vault_id: str
    display_name: str
    default_model: str
    system_prompt: str
    budget: Budget
    operator_budget: Budget
    create_time: int
    update_time: int
    revision: int


@dataclass(frozen=True, slots=True)
class VaultLimits:
    """What the operator allows a vault, which need not be there yet. `update_time` is None where nothing was set."""

    vault_id: str
    budget: Budget
    update_time: int | None


@dataclass(frozen=True, slots=True)
class Session:
    session_id: str
    title: str
    model: str
    system_prompt: str
    metadata: Mapping[str, str]
    archived: bool
    creator: str
    message_count: int
    current_leaf_message_id: str | None
    running_turn_ids: tuple[str, ...]
    create_time: int
    update_time: int
    last_message_time: int | None
    revision: int


@dataclass(frozen=True, slots=True)
class TextBlock:
    text: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or a document of a vault. `size` in bytes, `sha256` in hexadecimal digits."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str
    create_time: int


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """An image that the vault holds."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentBlock:
    """A document that the vault holds."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """A call of a tool; `input` is JSON, as the model wrote it."""

    tool_use_id: str
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    tool_use_id: str
    content: "tuple[TextBlock | ImageBlock | DocumentBlock, ...]"
    is_error: bool


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """`signature` and `redacted` are the provider's own, given back to it as they are; empty where it gave none."""

    text: str
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class CompactionBlock:
    """What the model is told instead of all that came before. `opaque` is JSON, given back to the provider with it."""

    summary: str
    opaque: str = "{}"


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | CompactionBlock
Content = tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model provider counts them; `input_tokens` excludes both cache counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd_nanos: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What turns that ended on `day` (UTC, YYYY-MM-DD) have cost; empty what they were not told apart by."""

    day: str
    model: str
    session_id: str
    usage: Usage
    turns: int


@dataclass(frozen=True, slots=True)
class Price:
    """What a token costs, in billionths of a US dollar, in calls that read more than `above_input_tokens`."""

    above_input_tokens: int
    input_usd_nanos: int
    output_usd_nanos: int
    cache_read_usd_nanos: int
    cache_write_usd_nanos: int


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that may be asked. `prices` rise by size, the first is for 0; `successor` may be empty."""

    model: str
    display_name: str
    context_tokens: int
    max_output_tokens: int
    prices: tuple[Price, ...]
    retire_time: int | None
    successor: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may ask for; `input_schema` is JSON, as the caller wrote it."""

    name: str
    description: str
    input_schema: str


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is auto, any, tool or none; `name` goes with tool."""

    mode: str
    name: str = ""
    disable_parallel_tool_use: bool = False


@dataclass(frozen=True, slots=True)
class Thinking:
    """`mode` is adaptive, enabled or disabled; `budget_tokens` goes with enabled."""

    mode: str
    budget_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How a reply is generated. Empty, 0 and None leave it to whatever holds then; schemas are JSON, verbatim."""

    model: str = ""
    max_output_tokens: int = 0
    stop_sequences: tuple[str, ...] = ()
    thinking: Thinking | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_schema: str = ""


@dataclass(frozen=True, slots=True)
class Message:
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


@dataclass(frozen=True, slots=True)
class TurnError:
    """Why a turn did not complete. `retry_delay` in seconds, None where waiting does not help or is not known."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """`pruned`: the events between its first and its last are gone, or about to go."""

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
    options: Options
    pruned: bool


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
class Compaction:
    turn_id: str
    sequence: int
    block_index: int
    block: CompactionBlock


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


# What lies between a turn's first and its last event.
MiddleEvent = TextDelta | ThinkingDelta | ToolUse | Compaction | UsageUpdate
TurnEvent = TurnStarted | MiddleEvent | TurnFinished


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list and what the next page begins after; `next_after` is None on the last."""

    items: tuple[T, ...]
    next_after: tuple[int | str, ...] | None
