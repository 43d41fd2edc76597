"""What the turn engine asks of a model, whoever answers."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from metamorphd.models.content import (
    CompactionBlock,
    Content,
    ThinkingBlock,
    ToolUseBlock,
)
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason
from metamorphd.models.usage import Usage


@dataclass(frozen=True, slots=True)
class PromptMessage:
    role: Role
    content: Content


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call to a model. `messages` oldest first, the last one the user's; `attachments` are the bytes of those that
    they name, by id; `options` name the model, and of the reply's length the most that it may have."""

    system_prompt: str
    messages: tuple[PromptMessage, ...]
    attachments: Mapping[str, bytes]
    options: EffectiveOptions


# Of the events below `block_index` is the place in the reply's content: blocks count from 0 without gaps, in order.


@dataclass(frozen=True, slots=True)
class ReplyText:
    """More text of a block."""

    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyThinking:
    """More thinking of a block. Comes at least once a block, empty if there is nothing to show."""

    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyThinkingEnd:
    """A block of thinking is whole; `block` is what there is to it beside its text."""

    block_index: int
    block: ThinkingBlock


@dataclass(frozen=True, slots=True)
class ReplyToolUse:
    """A tool call, whole."""

    block_index: int
    block: ToolUseBlock


@dataclass(frozen=True, slots=True)
class ReplyCompaction:
    """What came before was summarised."""

    block_index: int
    block: CompactionBlock


@dataclass(frozen=True, slots=True)
class ReplyUsage:
    """What the call has cost so far; replaces what was told before."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ReplyStop:
    """The reply is whole. Always the last event, exactly one a reply."""

    stop_reason: StopReason


ReplyBlock = ReplyText | ReplyThinking | ReplyThinkingEnd | ReplyToolUse | ReplyCompaction
ReplyEvent = ReplyBlock | ReplyUsage | ReplyStop


class Model(Protocol):
    """A source of replies."""

    source: str
    """`claude` or `offline`."""

    async def __aenter__(self) -> Self:
        """Gets ready; called once, before all else."""

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        """Yields one reply: its events in order, those that came together in one sequence.

        A call that yielded anything is never repeated. `aclose()` ends the upstream connection.
        Raises one of the Upstream… errors of `metamorphd.errors`, before or amid the reply.
        """

    async def count_tokens(self, prompt: Prompt) -> int:
        """How many tokens a reply to `prompt` would read. Raises as `generate` does."""
