"""What the turn engine asks of a model, whoever answers."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from metamorphd.models import Content, Role, StopReason, Usage


@dataclass(frozen=True, slots=True)
class PromptMessage:
    role: Role
    content: Content


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call to a model. `messages` oldest first, the last one the user's."""

    model: str
    system_prompt: str
    messages: tuple[PromptMessage, ...]
    max_output_tokens: int
    stop_sequences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyText:
    """More text of the block `block_index`; text blocks count from 0 without gaps, in order."""

    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyUsage:
    """What the call has cost so far; replaces what was told before."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ReplyStop:
    """The reply is whole. Always the last event, exactly one a reply."""

    stop_reason: StopReason


ReplyEvent = ReplyText | ReplyUsage | ReplyStop


class Model(Protocol):
    """A source of replies."""

    source: str
    """`claude` or `offline`."""

    async def open(self) -> None:
        """Gets ready; called once, before `generate`."""

    async def close(self) -> None:
        """Ends every connection."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[ReplyEvent]:
        """Streams one reply. A call that yielded anything is never repeated. `aclose()` ends the upstream connection.

        Raises one of the Upstream… errors of `metamorphd.errors`, before or amid the reply.
        """
