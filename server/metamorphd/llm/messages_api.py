"""The wire format of the Messages API: requests from prompts, and the events of a reply.

https://platform.claude.com/docs/en/api/messages
"""

import json
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from metamorphd.llm.interface import (
    Prompt,
    PromptMessage,
    ReplyCompaction,
    ReplyEvent,
    ReplyStop,
    ReplyText,
    ReplyThinking,
    ReplyThinkingEnd,
    ReplyToolUse,
    ReplyUsage,
)
from metamorphd.llm.json_object import json_object
from metamorphd.llm.prefix import Prefix
from metamorphd.llm.request_body import AttachmentSlots, RequestBody, serialized
from metamorphd.models.content import (
    CONTENT_BYTES,
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    spoken,
    text_within,
)
from metamorphd.models.generation import EffectiveOptions, ToolChoice
from metamorphd.models.message import Role
from metamorphd.models.turn import StopDetails, StopReason
from metamorphd.models.usage import Usage

STOP_REASONS = {
    "end_turn": StopReason.END_TURN,
    "max_tokens": StopReason.MAX_TOKENS,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "tool_use": StopReason.TOOL_USE,
    "pause_turn": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_EXCEEDED,
}
ROLES = {Role.USER: "user", Role.ASSISTANT: "assistant"}
COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
# In bytes, of each text of a refusal.
LARGEST_DETAIL = 4096
LARGEST_COUNT = 2**31 - 1
COMPACTION_BETA = "compact-2026-01-12"
COMPACTION = "compact_20260112"
# More tokens than a model can read.
NEVER_COMPACT = 100_000_000
# What precedes the messages, for the provider that signs thinking.
BEGINNING = ("model", "system", "tools")
UNCOUNTED = ("max_tokens", "stop_sequences")


@dataclass(frozen=True, slots=True)
class Request:
    """A call: its body and its headers. `prefix` is all that it says, to which thinking in the reply is bound.

    `thinks`: it sends thinking of earlier replies.
    """

    body: RequestBody
    headers: dict[str, str]
    prefix: Prefix
    thinks: bool


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
    prefix = Prefix(serialized({name: parameters.get(name) for name in BEGINNING}))
    if any(map(_summarizes, prompt.messages)):
        # Summaries are not accepted without it, even if no further one is to be made.
        parameters = {"context_management": _compaction(NEVER_COMPACT)} | parameters
    headers = {"anthropic-beta": COMPACTION_BETA} if "context_management" in parameters else {}
    messages = list(_messages(prompt.messages, slots, prefix))
    body = RequestBody(parameters, (message for message, _ in messages), slots, prompt.attachments)
    return Request(body, headers, prefix, thinks=any(thinks for _, thinks in messages))


def _summarizes(message: PromptMessage) -> bool:
    return message.role is Role.ASSISTANT and any(isinstance(block, CompactionBlock) for block in message.content)


def _compaction(above: int) -> dict[str, Any]:
    return {"edits": [{"type": COMPACTION, "trigger": {"type": "input_tokens", "value": above}}]}


def without_thinking(prompt: Prompt) -> Prompt:
    """Returns a prompt without the thinking of earlier replies."""
    messages = tuple(replace(message, content=spoken(message.content)) for message in prompt.messages)
    return replace(prompt, messages=messages)


def _messages(
    messages: Iterable[PromptMessage], slots: AttachmentSlots, prefix: Prefix
) -> Iterator[tuple[bytes, bool]]:
    """Yields messages as they are sent, and whether they have thinking. Adds each to `prefix`.

    Thinking is left out of a reply to a request that said something else before it. That changes what precedes later
    replies, so their thinking is left out as well.
    """
    for message in messages:
        content = message.content
        if _summarizes(message):
            prefix.restart()
        bound_to = {block.bound_to for block in content if isinstance(block, ThinkingBlock)}
        if bound_to and bound_to != {prefix.digest}:
            content = spoken(content)
            bound_to = set()
        written = serialized({"role": ROLES[message.role], "content": _content(content, slots)})
        prefix.add(slots.without_mark(written))
        yield written, bool(bound_to)


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
    if compact_above:
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
    if not options.tools:
        return {}
    tools = [
        {"name": tool.name, "input_schema": json.loads(tool.input_schema)}
        | ({"description": tool.description} if tool.description else {})
        for tool in options.tools
    ]
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
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ImageBlock() | DocumentBlock():
            kind = "image" if isinstance(block, ImageBlock) else "document"
            return {"type": kind, "source": _source(block.media_type, block.attachment_id, slots)}
        case ToolUseBlock():
            return {
                "type": "tool_use",
                "id": block.tool_use_id,
                "name": block.name,
                "input": json.loads(block.input),
            }
        case ToolResultBlock():
            content = _content(block.content, slots)
            result = {"type": "tool_result", "tool_use_id": block.tool_use_id, "content": content}
            return result | ({"is_error": True} if block.is_error else {})
        case ThinkingBlock():
            return _thinking_block(block)
        case CompactionBlock():
            return {"type": "compaction", "content": block.summary} | dict(json.loads(block.opaque))
    raise TypeError(f"the Messages API has no {type(block).__name__}")


def _thinking_block(block: ThinkingBlock) -> dict[str, Any]:
    if block.redacted:
        return {"type": "redacted_thinking", "data": block.redacted}
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


def _source(media_type: str, attachment_id: str, slots: AttachmentSlots) -> dict[str, str]:
    if media_type == "text/plain":
        return {"type": "text", "media_type": media_type, "data": slots.text(attachment_id)}
    return {"type": "base64", "media_type": media_type, "data": slots.base64(attachment_id)}


class Reply:
    """Reads the raw events of one reply. `complete` once the reply has ended properly.

    `prefix` is the request that it answers.
    """

    def __init__(self, *, prefix: Prefix) -> None:
        self.complete = False
        self._prefix = prefix
        self._reported = dict.fromkeys(COUNTS, 0)
        self._compaction = dict.fromkeys(COUNTS, 0)
        self._stop_reason = StopReason.OTHER
        self._details: StopDetails | None = None
        # By the provider's index, which differs from ours: empty blocks are not counted here.
        self._open: dict[int, _OpenBlock] = {}
        self._count = 0
        self._inputs: list[str] = []

    def read(self, event: Any) -> Iterable[ReplyEvent]:
        """Returns the events of a raw event. Raises KeyError, TypeError or ValueError if it is malformed."""
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            # Nearly all events are of this kind.
            return self._text_events(self._open[event["index"]], event["delta"]["text"])
        return self._read(event)

    def _read(self, event: Any) -> Iterator[ReplyEvent]:
        match event["type"]:
            case "content_block_delta":
                yield from self._more(self._open[event["index"]], event["delta"])
                if sum(opened.held for opened in self._open.values()) > CONTENT_BYTES:
                    # Not yielded before the block is complete, so nobody else could limit it.
                    yield ReplyStop(StopReason.MAX_TOKENS)
            case "content_block_start":
                yield from self._begin(event["index"], event["content_block"])
            case "content_block_stop":
                yield from self._end(self._open.pop(event["index"]))
            case "message_start":
                yield self._usage(event["message"]["usage"])
            case "message_delta":
                self._details = _stop_details(event["delta"].get("stop_details")) or self._details
                self._stop_reason = STOP_REASONS.get(event["delta"]["stop_reason"], StopReason.OTHER)
                yield self._usage(event["usage"])
            case "message_stop":
                self._refuse_unreadable_calls()
                self.complete = True
                yield ReplyStop(self._stop_reason, self._details)

    def _begin(self, index: int, block: Any) -> Iterator[ReplyEvent]:
        opened = self._open[index] = _OpenBlock(block)
        match opened.kind:
            case "text":
                yield from self._text_events(opened, block["text"])
            case "thinking":
                yield from self._thinking_events(opened, block["thinking"])
            case "redacted_thinking":
                yield ReplyThinking(self._place(opened), "")

    def _more(self, opened: "_OpenBlock", delta: Any) -> Iterator[ReplyEvent]:
        match delta["type"]:
            case "thinking_delta":
                yield from self._thinking_events(opened, delta["thinking"])
            case "signature_delta":
                opened.signature += _text(delta["signature"])
                opened.held += len(delta["signature"])
            case "input_json_delta":
                opened.input.append(_text(delta["partial_json"]))
                opened.held += len(delta["partial_json"])
            case "compaction_delta":
                opened.compaction |= {name: value for name, value in delta.items() if name != "type"}

    def _end(self, opened: "_OpenBlock") -> Iterator[ReplyEvent]:
        match opened.kind:
            case "thinking":
                place = self._place(opened)
                # The block's only event if the provider does not show its thinking.
                yield ReplyThinking(place, "")
                yield self._thought(place, ThinkingBlock("", signature=opened.signature))
            case "redacted_thinking":
                redacted = _text(opened.block["data"])
                yield self._thought(self._place(opened), ThinkingBlock("", redacted=redacted))
            case "tool_use":
                block = opened.tool_use()
                self._inputs.append(block.input)
                yield ReplyToolUse(self._place(opened), block)
            case "compaction" if opened.compaction.get("content"):
                self._prefix.restart()
                yield ReplyCompaction(self._place(opened), opened.compacted())

    def _thought(self, place: int, block: ThinkingBlock) -> ReplyThinkingEnd:
        return ReplyThinkingEnd(place, replace(block, bound_to=self._prefix.digest))

    def _text_events(self, opened: "_OpenBlock", text: Any) -> list[ReplyEvent]:
        return [ReplyText(self._place(opened), text)] if _text(text) else []

    def _thinking_events(self, opened: "_OpenBlock", text: Any) -> list[ReplyEvent]:
        return [ReplyThinking(self._place(opened), text)] if _text(text) else []

    def _refuse_unreadable_calls(self) -> None:
        """Raises ValueError if the input of a tool call is incomplete, unless the reply was cut short."""
        if self._stop_reason is StopReason.TOOL_USE:
            for written in self._inputs:
                json_object(written)

    def _place(self, opened: "_OpenBlock") -> int:
        """Returns our index of the block, which is assigned with its first content."""
        if opened.place is None:
            opened.place = self._count
            self._count += 1
        return opened.place

    def _usage(self, usage: dict[str, Any]) -> ReplyUsage:
        """Returns the usage so far. Counts are cumulative, and an event may omit those that have not changed."""
        self._reported |= {name: _tokens(usage[name]) for name in COUNTS if usage.get(name) is not None}
        if usage.get("iterations"):
            # The only place that reports the usage of compaction.
            summaries = [entry for entry in usage["iterations"] if entry["type"] == "compaction"]
            self._compaction = {name: sum(_tokens(entry[name]) for entry in summaries) for name in COUNTS}
        counts = {ours: self._reported[name] + self._compaction[name] for name, ours in COUNTS.items()}
        return ReplyUsage(Usage(**counts))


def _stop_details(details: Any) -> StopDetails | None:
    """Returns what is known of a refusal. Either of its texts may be null."""
    if not isinstance(details, dict):
        return None
    category, explanation = (
        text_within(_text(value), LARGEST_DETAIL) if isinstance(value, str) else ""
        for value in (details.get("category"), details.get("explanation"))
    )
    return StopDetails(category, explanation) if category or explanation else None


def _tokens(value: Any) -> int:
    """Returns a count of tokens. Raises TypeError or ValueError for other values, which would be stored and priced."""
    count = operator.index(value)
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError("not a count of tokens")
    return count


class _OpenBlock:
    """A block that is not complete yet. `held` is the length of what is yielded only when it is."""

    __slots__ = ("block", "compaction", "held", "input", "kind", "place", "signature")

    def __init__(self, block: Any) -> None:
        self.block = block
        self.kind: str = block["type"]
        self.place: int | None = None
        self.held = 0
        self.signature = _text(block.get("signature") or "")
        self.input: list[str] = []
        self.compaction = {name: value for name, value in block.items() if name != "type" and value is not None}

    def tool_use(self) -> ToolUseBlock:
        # For a tool without parameters there is no delta, and the block's start has the input.
        written = "".join(self.input) or json.dumps(self.block["input"])
        return ToolUseBlock(_text(self.block["id"]), _text(self.block["name"]), written)

    def compacted(self) -> CompactionBlock:
        opaque = {name: value for name, value in self.compaction.items() if name != "content"}
        return CompactionBlock(_text(self.compaction["content"]), json.dumps(opaque))


def _text(value: Any) -> str:
    """Returns text. Raises TypeError for other types, ValueError for lone surrogates: neither could be stored."""
    str.encode(value)
    return str(value)
