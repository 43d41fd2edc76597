"""The interface between the turn engine and language models."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from metamorphd.models.content import (
    CompactionBlock,
    Content,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Role
from metamorphd.models.span import NOT_RECORDED, Span
from metamorphd.models.turn import StopDetails, StopReason
from metamorphd.models.usage import Usage

# In bytes. A prompt of more text takes milliseconds to build, so it is done on a thread.
LARGE_TEXT = 64 * 1024


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A message as it is sent.

    `message_id` is that of the message in the store, or the turn's if it is of a reply that goes on. It is empty if it
    is of none.
    """

    role: Role
    content: Content
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class AttachmentData:
    """The bytes of an image or document. `pieces` yields them, and can be called again; `size` is their number."""

    size: int
    pieces: Callable[[], AsyncIterator[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call to a model.

    `messages` are sorted oldest first, and the last one is the user's. `attachments` are the images and
    documents in them, by id. `options` always have a model and a maximum length of the reply. `text_bytes` is the size
    of the messages, about. `summarized`: earlier messages may be summarized; otherwise there are no summaries in them.
    The last `own` messages are of the reply that goes on: what the model has said, and results of the server's tools.
    `session_id` and `span` say what the call is a part of, and are not sent.
    """

    system_prompt: str
    messages: tuple[PromptMessage, ...]
    attachments: Mapping[str, AttachmentData]
    options: EffectiveOptions
    text_bytes: int = 0
    summarized: bool = True
    own: int = 0
    session_id: str = ""
    span: Span = NOT_RECORDED


# In the events below, `block_index` is the position of the block in the reply's content, from 0, in order and without
# gaps.


@dataclass(frozen=True, slots=True)
class ReplyText:
    """More text of a block."""

    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyThinking:
    """More thinking of a block. Occurs at least once per block, with empty text if the thinking is not shown."""

    block_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyThinkingEnd:
    """A block of thinking is complete. `block` is the block without its text."""

    block_index: int
    block: ThinkingBlock


@dataclass(frozen=True, slots=True)
class ReplyToolUse:
    """A complete tool call."""

    block_index: int
    block: ToolUseBlock


@dataclass(frozen=True, slots=True)
class ReplyToolResult:
    """The result of a call that the server ran itself. No model yields it."""

    block_index: int
    block: ToolResultBlock


@dataclass(frozen=True, slots=True)
class ReplyCompaction:
    """Earlier messages were summarized."""

    block_index: int
    block: CompactionBlock


@dataclass(frozen=True, slots=True)
class ReplyUsage:
    """The usage of the call up to the end of its batch. Replaces earlier ones.

    `usage` is what was reported. `most_output_tokens` is the most that the reply can have used, None if `usage` has it
    all. `unreported_reads` is how often the prompt was read without a report of its tokens.
    """

    usage: Usage
    most_output_tokens: int | None = None
    unreported_reads: int = 0


@dataclass(frozen=True, slots=True)
class ReplyStop:
    """The reply is complete. Always the last event, exactly once per reply. `details` are those of a refusal."""

    stop_reason: StopReason
    details: StopDetails | None = None


ReplyBlock = ReplyText | ReplyThinking | ReplyThinkingEnd | ReplyToolUse | ReplyToolResult | ReplyCompaction
ReplyEvent = ReplyBlock | ReplyUsage | ReplyStop


class Model(Protocol):
    """A source of replies."""

    source: str
    """`claude` or `offline`."""

    charges: bool
    """Whether its replies cost what the catalog says."""

    async def __aenter__(self) -> Self:
        """Begins to prepare the model. Is called once, before all other methods."""

    async def opened(self) -> None:
        """Returns once the model is prepared. Until then other methods wait."""

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        """Yields the events of one reply in order, in batches of those that arrived together, after their usage.

        A call that has yielded an event is never retried. `aclose()` ends the upstream connection.
        Raises one of the Upstream… errors of `metamorphd.errors`, before or during the reply.
        """

    async def count_tokens(self, prompt: Prompt) -> int:
        """Returns the number of input tokens of a reply to `prompt`. Raises the errors of `generate`."""
