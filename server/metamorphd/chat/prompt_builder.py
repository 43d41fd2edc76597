"""What a branch says to the model.

What is stored is for display, and not all of it may be sent: a tool call without its result, thinking that the provider
has not signed, a message whose content was deleted. The provider refuses a conversation with such a thing in it.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from metamorphd.llm.interface import PromptMessage
from metamorphd.models.content import (
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.message import Message, Role

# Without it a conversation might begin, or end, with the assistant, which the provider refuses.
GONE = TextBlock("[This message is not available any more.]")


def prompt_messages(branch: Sequence[Message]) -> tuple[PromptMessage, ...]:
    """A branch, oldest first, as the model is told it."""
    recent = branch[_beginning(branch) :]
    told = []
    for place, message in enumerate(recent):
        before = recent[place - 1].content if place else ()
        after = recent[place + 1].content if place + 1 < len(recent) else ()
        answered = (
            _answered(message.content, after) if message.role is Role.ASSISTANT else _answered(before, message.content)
        )
        content = tuple(block for block in message.content if _sendable(block, answered))
        if message.role is Role.USER:
            told.append(PromptMessage(message.role, content or (GONE,)))
        elif any(not isinstance(block, ThinkingBlock) for block in content):
            told.append(PromptMessage(message.role, content))
    return tuple(told)


def _beginning(branch: Sequence[Message]) -> int:
    """Where to begin: what lies before a summary is in the summary, but a conversation begins with the user."""
    place = len(branch) - 1
    while place > 0 and not any(isinstance(block, CompactionBlock) for block in branch[place].content):
        place -= 1
    while place > 0 and not _begins(branch[place]):
        place -= 1
    return max(place, 0)


def _begins(message: Message) -> bool:
    shown = TextBlock | ImageBlock | DocumentBlock
    return message.role is Role.USER and any(isinstance(block, shown) for block in message.content)


def _answered(reply: Content, answer: Content) -> AbstractSet[str]:
    """The tool calls of a reply, if the message after it holds the results of exactly those."""
    calls = {block.tool_use_id for block in reply if isinstance(block, ToolUseBlock)}
    results = {block.tool_use_id for block in answer if isinstance(block, ToolResultBlock)}
    return calls if calls == results else set()


def _sendable(block: Block, answered: AbstractSet[str]) -> bool:
    match block:
        case TextBlock():
            # The provider refuses text of white space only. Other spaces pass the contract's rule, and count as text.
            return bool(block.text.strip(" \t\n\f\r"))
        case ThinkingBlock():
            return bool(block.signature or block.redacted)
        case ToolUseBlock() | ToolResultBlock():
            return block.tool_use_id in answered
    return True


# The provider takes requests of at most 32 MB; in base64, so many bytes leave it a megabyte for text.
PROMPT_BYTES = 22 * 1024 * 1024
LEFT_OUT = TextBlock("[An attachment that was here is not available any more.]")

Attached = ImageBlock | DocumentBlock


def within_limit(messages: Sequence[PromptMessage]) -> tuple[PromptMessage, ...]:
    """Messages with their newest attachments, those of `PROMPT_BYTES` in all; older ones are left out."""
    left = PROMPT_BYTES

    def fits(block: Attached) -> bool:
        nonlocal left
        left -= block.size
        return left >= 0

    return tuple(reversed([_only(message, fits) for message in reversed(messages)]))


def without_missing(messages: Iterable[PromptMessage], attachment_ids: AbstractSet[str]) -> tuple[PromptMessage, ...]:
    """Messages with those attachments only."""
    return tuple(_only(message, lambda block: block.attachment_id in attachment_ids) for message in messages)


def attachment_ids(messages: Iterable[PromptMessage]) -> set[str]:
    """The attachments that messages name."""
    return {block.attachment_id for message in messages for block in message.attachments}


def _only(message: PromptMessage, keep: Callable[[Attached], bool]) -> PromptMessage:
    """Asks for each attachment from the last to the first."""
    kept = [_kept(block, keep) for block in reversed(message.content)]
    return replace(message, content=tuple(reversed(kept)))


def _kept(block: Block, keep: Callable[[Attached], bool]) -> Block:
    match block:
        case ImageBlock() | DocumentBlock():
            return block if keep(block) else LEFT_OUT
        case ToolResultBlock():
            parts = [
                part if isinstance(part, TextBlock) or keep(part) else LEFT_OUT for part in reversed(block.content)
            ]
            return replace(block, content=tuple(reversed(parts)))
    return block
