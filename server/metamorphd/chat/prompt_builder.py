"""Builds the messages of a prompt from a branch.

Stored messages are for display, and some content must not be sent: tool calls without results, thinking that the
provider has not signed, messages whose content was deleted. The provider rejects conversations that contain those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import accumulate, count, groupby
from operator import sub

from metamorphd.llm.interface import PromptMessage
from metamorphd.models.capabilities import FEW_IMAGES, PROMPT_BYTES, REQUEST_BYTES, Capabilities, is_large, pages_of
from metamorphd.models.content import (
    AttachmentBlock,
    Block,
    CompactionBlock,
    Content,
    ImageBlock,
    Part,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    attachment_blocks,
    map_attachments,
    spoken,
)
from metamorphd.models.message import BranchMessage, Role

BLANK = " \t\n\f\r"
# Without this placeholder a conversation might begin or end with the assistant, which the provider rejects.
GONE = TextBlock("[This message is not available any more.]")


def prompt_messages(branch: Sequence[BranchMessage]) -> tuple[PromptMessage, ...]:
    """Returns the messages of the prompt for a branch, oldest first."""
    branch = _without_refused(branch)
    recent = _in_parts(_without_rejected(branch[_beginning(branch) :]))
    messages = []
    for place, message in enumerate(recent):
        before = recent[place - 1].content if place else ()
        after = recent[place + 1].content if place + 1 < len(recent) else ()
        content = message.content
        if not _is_plain(content):
            asks = message.role is Role.ASSISTANT
            answered = _answered(content, after) if asks else _answered(before, content)
            content = _sent(content, answered)
        if message.role is Role.USER:
            messages.append(PromptMessage(message.role, content or (GONE,), message.message_id))
        elif any(not isinstance(block, ThinkingBlock) for block in content):
            messages.append(PromptMessage(message.role, content, message.message_id))
    return tuple(messages)


def exchanges(reply: Content) -> tuple[tuple[Role, Content], ...]:
    """Returns a reply as it is sent: what the model said up to calls that the server ran, their results, and so on."""
    runs = groupby(reply, key=lambda block: isinstance(block, ToolResultBlock))
    return tuple((Role.USER if results else Role.ASSISTANT, tuple(blocks)) for results, blocks in runs)


def _in_parts(branch: Sequence[BranchMessage]) -> Sequence[BranchMessage]:
    """Returns a branch with replies as `exchanges` has them. Results at the end of one begin the next message."""
    if not any(message.role is Role.ASSISTANT and _has_results(message.content) for message in branch):
        return branch
    parts: list[BranchMessage] = []
    for message in branch:
        before = parts[-1] if parts else None
        if message.role is Role.ASSISTANT:
            parts += [replace(message, role=role, content=content) for role, content in exchanges(message.content)]
        elif before is not None and before.role is Role.USER and _has_results(before.content):
            parts[-1] = replace(message, content=before.content + message.content)
        else:
            parts.append(message)
    return parts


def _has_results(content: Content) -> bool:
    return any(isinstance(block, ToolResultBlock) for block in content)


def _without_refused(branch: Sequence[BranchMessage]) -> Sequence[BranchMessage]:
    """Returns a branch without the exchanges in which the model declined to reply, up to what the user asked.

    With them in its context it goes on declining:
    https://platform.claude.com/docs/en/test-and-evaluate/strengthen-guardrails/handle-streaming-refusals.
    """
    if not any(message.refused for message in branch):
        return branch
    kept: list[BranchMessage] = []
    for message, after in zip(branch, (*branch[1:], None), strict=True):
        kept.append(message)
        declined = message.role is Role.ASSISTANT or (after is not None and after.role is Role.USER)
        while kept and message.refused and declined:
            last = kept.pop()
            if last.role is Role.USER and not any(isinstance(block, ToolResultBlock) for block in last.content):
                break
    return kept


def _without_rejected(branch: Sequence[BranchMessage]) -> Sequence[BranchMessage]:
    """Returns a branch without the content of messages that were rejected. The last one is tried again."""
    if not any(message.rejected for message in branch):
        return branch
    return [*(replace(message, content=()) if message.rejected else message for message in branch[:-1]), branch[-1]]


def _beginning(branch: Sequence[BranchMessage]) -> int:
    """Returns the index of the first message to send: that of the last summary, or the user's message before it.

    A summary replaces what precedes it, but the conversation must begin with the user. A branch that was cut at the
    model's context begins with the first message that can open a prompt.
    """
    place = len(branch) - 1
    while place > 0 and not branch[place].summarizes:
        place -= 1
    while place > 0 and not branch[place].opens_prompt:
        place -= 1
    if place == 0 and not branch[0].is_root:
        return next((place for place, message in enumerate(branch) if message.opens_prompt), 0)
    return max(place, 0)


def _is_plain(content: Content) -> bool:
    """Returns whether content is one text that can be sent, as most is."""
    return len(content) == 1 and isinstance(content[0], TextBlock) and bool(content[0].text.strip(BLANK))


def _answered(reply: Content, answer: Content) -> AbstractSet[str]:
    """Returns the ids of the tool calls of a reply, or none unless the next message has exactly their results."""
    calls = {block.tool_use_id for block in reply if isinstance(block, ToolUseBlock)}
    results = {block.tool_use_id for block in answer if isinstance(block, ToolResultBlock)}
    return calls if calls == results else set()


def _sent(content: Content, answered: AbstractSet[str]) -> Content:
    """Returns what of a message's content is sent: of a reply that lacks something before its thinking, none of it."""
    sent, lacks = [], False
    for block in content:
        if not _sendable(block, answered):
            lacks = True
        elif lacks and isinstance(block, ThinkingBlock):
            return spoken(tuple(block for block in content if _sendable(block, answered)))
        else:
            sent.append(block)
    return tuple(sent)


def _sendable(block: Block, answered: AbstractSet[str]) -> bool:
    match block:
        case TextBlock():
            # The provider rejects text that is only ASCII whitespace. Other spaces count as text, as in the contract.
            return bool(block.text.strip(BLANK))
        case ThinkingBlock():
            return bool(block.signature or block.redacted)
        case ToolUseBlock() | ToolResultBlock():
            return block.tool_use_id in answered
    return True


LEFT_OUT = TextBlock("[An attachment that was here is not available any more.]")


def readable(messages: Sequence[PromptMessage], can: Capabilities) -> Sequence[PromptMessage]:
    """Returns messages with only the attachments that the model can read. Others are replaced.

    Summaries become text for a model that has none of its own.
    """
    if not can.summaries:
        messages = [replace(message, content=_with_summaries_as_text(message.content)) for message in messages]
    if can.images and can.documents:
        return messages
    return _only(messages, lambda block: can.images if isinstance(block, ImageBlock) else can.documents)


def _with_summaries_as_text(content: Content) -> Content:
    return tuple(
        (TextBlock(block.summary) if block.summary.strip(BLANK) else GONE)
        if isinstance(block, CompactionBlock)
        else block
        for block in content
    )


def within_limit(
    messages: Sequence[PromptMessage], *, most: int, pages: int, text_bytes: int
) -> tuple[PromptMessage, ...]:
    """Returns messages with the newest attachments, at most `most` and `PROMPT_BYTES` in total, and what fits in a
    request beside `text_bytes`, and of documents with pages the newest ones, at most `pages` in total. Others are
    replaced.

    An image that is too large in a prompt with many is kept if it is among the `FEW_IMAGES` newest, which then are all
    that is kept, and replaced otherwise.
    """
    blocks = [block for message in filter(_has_attachments, messages) for block in attachment_blocks(message.content)]
    # In base64, three bytes are four.
    room = min(PROMPT_BYTES, (REQUEST_BYTES - text_bytes) // 4 * 3)
    kept = sum(size <= room for size in accumulate(block.size for block in reversed(blocks)))
    kept = min(kept, most)
    if any(map(is_large, blocks[-FEW_IMAGES:])):
        kept = min(kept, FEW_IMAGES)
    places = count(kept - len(blocks))
    total = sum(map(pages_of, blocks))
    # Those of a block and of all that are newer.
    newer = accumulate(map(pages_of, blocks), sub, initial=total)

    def keep(block: AttachmentBlock) -> bool:
        is_paged_out = next(newer) > pages and pages_of(block) > 0
        return next(places) >= 0 and not is_paged_out and (kept <= FEW_IMAGES or not is_large(block))

    return _only(messages, keep)


def without_missing(messages: Iterable[PromptMessage], sizes: Mapping[str, int]) -> tuple[PromptMessage, ...]:
    """Returns messages with only the attachments that have a size, and that size in their block. Others are replaced.

    What a turn has reserved, and what fits in a request, is by the sizes in blocks.
    """
    return _only(messages, lambda block: sizes.get(block.attachment_id) == block.size)


def attachments_in(messages: Iterable[PromptMessage]) -> set[tuple[str, int]]:
    """Returns (id, size in bytes) of the attachments in messages, as their blocks have them."""
    return {
        (block.attachment_id, block.size)
        for message in filter(_has_attachments, messages)
        for block in attachment_blocks(message.content)
    }


def _only(messages: Iterable[PromptMessage], keep: Callable[[AttachmentBlock], bool]) -> tuple[PromptMessage, ...]:
    """Returns messages with only the attachments for which `keep`, which is called in order, returns true."""

    def kept(block: AttachmentBlock) -> Part:
        return block if keep(block) else LEFT_OUT

    return tuple(
        replace(message, content=map_attachments(message.content, kept)) if _has_attachments(message) else message
        for message in messages
    )


def _has_attachments(message: PromptMessage) -> bool:
    # Most messages are one text, and there are thousands.
    content = message.content
    return not (len(content) == 1 and isinstance(content[0], TextBlock)) and any(attachment_blocks(content))
