"""The wire format of the Messages API: requests from prompts. https://platform.claude.com/docs/en/api/messages."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metamorphd.llm.interface import (
    Prompt,
    PromptMessage,
)
from metamorphd.llm.prefix import Prefix
from metamorphd.llm.request_body import AttachmentSlots, RequestBody, serialized
from metamorphd.models.content import (
    AttachmentBlock,
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    RecalledBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    spoken,
)
from metamorphd.models.generation import MEMORY_TOOL, EffectiveOptions, Thinking, ToolChoice
from metamorphd.models.message import Role

ROLES = {Role.USER: "user", Role.ASSISTANT: "assistant"}
COMPACTION_BETA = "compact-2026-01-12"
COMPACTION = "compact_20260112"
MEMORY_TOOL_TYPE = "memory_20250818"
# More tokens than a model can read.
NEVER_COMPACT = 100_000_000
# What precedes the messages, for the provider that signs thinking.
BEGINNING = ("model", "system", "tools")
_NO_IDENTIFIER = re.compile(r"[^a-zA-Z0-9_-]")
UNCOUNTED = ("max_tokens", "stop_sequences")


@dataclass(frozen=True, slots=True)
class Request:
    """A call: its body and its headers. `prefix` is all that it says, to which thinking in the reply is bound.

    `thinks`: it sends thinking of earlier replies. `places` are those of its attachments, in order: the numbers of the
    message, of its block and of the part of that block, and the attachment's id. `message_ids` are those of its
    messages. The last of them that is not `own` is the one to be answered.
    """

    body: RequestBody
    headers: dict[str, str]
    prefix: Prefix
    thinks: bool
    places: tuple[tuple[int, int, int, str], ...]
    message_ids: tuple[str, ...]
    own: int

    @property
    def asked(self) -> int:
        """Returns the number of the message that is to be answered."""
        return len(self.message_ids) - 1 - self.own


def reply_request(prompt: Prompt, *, compact_above: int) -> Request:
    """Returns the call that streams a reply.

    Schemas and tool inputs are sent unchanged, with members in the same order.
    """
    return _request(parameters_of(prompt, compact_above=compact_above) | {"stream": True}, prompt)


def count_request(prompt: Prompt) -> Request:
    """Returns the call that counts the input tokens of that of `reply_request`."""
    parameters = parameters_of(prompt, compact_above=0)
    return _request({name: value for name, value in parameters.items() if name not in UNCOUNTED}, prompt)


def _request(parameters: dict[str, Any], prompt: Prompt) -> Request:
    slots = AttachmentSlots()
    beginning = serialized({name: parameters.get(name) for name in BEGINNING})
    if any(map(_summarizes, prompt.messages)):
        # Summaries are not accepted without it, even if no further one is to be made.
        parameters = {"context_management": _compaction(NEVER_COMPACT)} | parameters
    headers = {"anthropic-beta": COMPACTION_BETA} if "context_management" in parameters else {}
    messages = _Messages(prompt.messages, slots, Prefix(beginning))
    body = RequestBody(parameters, messages, slots, prompt.attachments)
    if messages.doubtful and (before := _made_without(prompt.messages, slots, Prefix(beginning))):
        # Or it would be held beside the other one.
        body.clear()
        return _request(parameters, without_thinking(prompt, before=before))
    if parameters.get("thinking", {}).get("type") == "enabled" and messages.resumes_unthinking:
        # The provider refuses to go on thinking after calls of tools whose thinking is left out.
        body.clear()
        return _request({name: value for name, value in parameters.items() if name != "thinking"}, prompt)
    # Most prompts have none, and thousands of messages.
    places = tuple(_places(prompt.messages)) if prompt.attachments else ()
    message_ids = tuple(message.message_id for message in prompt.messages)
    return Request(
        body,
        headers,
        messages.prefix,
        thinks=messages.thinks,
        places=places,
        message_ids=message_ids,
        own=prompt.own,
    )


def _places(messages: Sequence[PromptMessage]) -> Iterator[tuple[int, int, int, str]]:
    for number, message in enumerate(messages):
        for place, block in enumerate(message.content):
            for part, attachment in enumerate(block.content if isinstance(block, ToolResultBlock) else (block,)):
                if isinstance(attachment, AttachmentBlock):
                    yield number, place, part, attachment.attachment_id


def _summarizes(message: PromptMessage) -> bool:
    return message.role is Role.ASSISTANT and any(isinstance(block, CompactionBlock) for block in message.content)


def _compaction(above: int) -> dict[str, Any]:
    return {"edits": [{"type": COMPACTION, "trigger": {"type": "input_tokens", "value": above}}]}


def without_thinking(prompt: Prompt, *, before: int | None = None) -> Prompt:
    """Returns a prompt without the thinking of earlier replies, or of those `before` a message."""
    messages = tuple(replace(message, content=spoken(message.content)) for message in prompt.messages[:before])
    if before is not None:
        return replace(prompt, messages=messages + prompt.messages[before:])
    options = prompt.options
    if options.thinking.mode == "enabled" and isinstance(messages[-1].content[0], ToolResultBlock):
        # As in `_request`.
        options = replace(options, thinking=Thinking())
    return replace(prompt, messages=messages, options=options)


class _Messages:
    """Messages as they are sent, serialized one by one. Each is added to `prefix`.

    Thinking is left out of a reply to a request that said something else before it. That changes what precedes later
    replies, so their thinking is left out as well. `thinks`: some was sent. `doubtful`: some was left out after it.
    `resumes_unthinking`: the last one has the results of tools, and the thinking of the reply that called them is out.
    """

    def __init__(self, messages: Iterable[PromptMessage], slots: AttachmentSlots, prefix: Prefix) -> None:
        self.thinks = False
        self.doubtful = False
        self.resumes_unthinking = False
        self.prefix = prefix
        self._messages = messages
        self._slots = slots

    def __iter__(self) -> Iterator[bytes]:
        lost = False
        for message in self._messages:
            content = message.content
            if _summarizes(message):
                self.prefix.restart()
            bound_to = _bound_to(message)
            if bound_to == {self.prefix.digest}:
                self.thinks = True
            elif bound_to:
                self.doubtful = self.thinks
                content = spoken(content)
            if message.role is Role.ASSISTANT:
                lost = content is not message.content
            self.resumes_unthinking = lost and isinstance(content[0], ToolResultBlock)
            written = _written(message, content, self._slots)
            self.prefix.add(self._slots.without_mark(written))
            yield written


def _made_without(messages: Sequence[PromptMessage], slots: AttachmentSlots, prefix: Prefix) -> int:
    """Returns the number of the newest reply that was made without the thinking before it, though there is some, or 0.

    The provider had rejected that thinking, which it would reject again each time.
    """
    newest, some = 0, False
    for number, message in enumerate(messages):
        if _summarizes(message):
            prefix.restart()
            newest, some = 0, False
        bound_to = _bound_to(message)
        if some and bound_to == {prefix.digest}:
            newest = number
        some = some or bool(bound_to)
        prefix.add(slots.without_mark(_written(message, spoken(message.content), slots)))
    return newest


def _bound_to(message: PromptMessage) -> set[str]:
    return {block.bound_to for block in message.content if isinstance(block, ThinkingBlock)}


def _written(message: PromptMessage, content: Content, slots: AttachmentSlots) -> bytes:
    return serialized({"role": ROLES[message.role], "content": _content(content, slots)})


def parameters_of(prompt: Prompt, *, compact_above: int) -> dict[str, Any]:
    """Returns the parameters of a call, without its messages."""
    options = prompt.options
    request: dict[str, Any] = {
        "model": options.model,
        "max_tokens": options.max_output_tokens,
        "cache_control": {"type": "ephemeral"},
    }
    if prompt.system_prompt:
        request["system"] = prompt.system_prompt
    if options.stop_sequences:
        request["stop_sequences"] = list(options.stop_sequences)
    output: dict[str, Any] = {"effort": options.effort} if options.effort else {}
    if options.response_schema:
        output["format"] = {"type": "json_schema", "schema": json.loads(options.response_schema)}
    if output:
        request["output_config"] = output
    if compact_above and prompt.summarized:
        request["context_management"] = _compaction(compact_above)
    return request | _thinking(options) | _tools(options)


def _thinking(options: EffectiveOptions) -> dict[str, Any]:
    if not options.thinking.mode:
        return {}
    thinking: dict[str, Any] = {"type": options.thinking.mode}
    if options.thinking.budget_tokens:
        thinking["budget_tokens"] = options.thinking.budget_tokens
    if options.thinking.mode not in ("disabled", "between_tools"):
        # Some models omit their thinking by default.
        thinking["display"] = "summarized"
    return {"thinking": thinking}


def _tools(options: EffectiveOptions) -> dict[str, Any]:
    if not (options.tools or options.memory_tool):
        return {}
    tools: list[dict[str, Any]] = [
        {"name": tool.name, "input_schema": json.loads(tool.input_schema)}
        | ({"description": tool.description} if tool.description else {})
        for tool in options.tools
    ]
    if options.memory_tool:
        tools.append({"type": MEMORY_TOOL_TYPE, "name": MEMORY_TOOL})
    choice = options.tool_choice
    if choice == ToolChoice():
        return {"tools": tools}
    tool_choice: dict[str, Any] = {"type": choice.mode}
    if choice.name:
        tool_choice["name"] = choice.name
    if choice.disable_parallel_tool_use and choice.mode != "none":
        tool_choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": tool_choice}


def _content(content: Content, slots: AttachmentSlots) -> list[dict[str, Any]]:
    return [_block(block, slots) for block in content]


def _block(block: Block, slots: AttachmentSlots) -> dict[str, Any]:
    match block:
        case TextBlock() | RecalledBlock():
            return {"type": "text", "text": block.text}
        case ImageBlock() | DocumentBlock():
            kind = "image" if isinstance(block, ImageBlock) else "document"
            return {"type": kind, "source": _source(block.media_type, block.attachment_id, slots)}
        case ToolUseBlock():
            return {
                "type": "tool_use",
                "id": _identifier(block.tool_use_id),
                "name": _identifier(block.name),
                "input": json.loads(block.input),
            }
        case ToolResultBlock():
            content = _content(block.content, slots)
            result = {"type": "tool_result", "tool_use_id": _identifier(block.tool_use_id), "content": content}
            return result | ({"is_error": True} if block.is_error else {})
        case ThinkingBlock():
            return _thinking_block(block)
        case CompactionBlock():
            return {"type": "compaction", "content": block.summary} | dict(json.loads(block.opaque))
    raise TypeError(f"the Messages API has no {type(block).__name__}")


def _identifier(text: str) -> str:
    """Returns the name of a tool or the id of a call, as the provider accepts it: other models write other ones."""
    return _NO_IDENTIFIER.sub("_", text)


def _thinking_block(block: ThinkingBlock) -> dict[str, Any]:
    if block.redacted:
        return {"type": "redacted_thinking", "data": block.redacted}
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


def _source(media_type: str, attachment_id: str, slots: AttachmentSlots) -> dict[str, str]:
    if media_type == "text/plain":
        return {"type": "text", "media_type": media_type, "data": slots.text(attachment_id)}
    return {"type": "base64", "media_type": media_type, "data": slots.base64(attachment_id)}
