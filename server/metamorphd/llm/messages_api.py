"""The wire format of the Messages API: requests from prompts, and the events of a reply.

https://platform.claude.com/docs/en/api/messages
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

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
    AttachmentBlock,
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
INPUT, OUTPUT = "input_tokens", "output_tokens"
INPUTS = COUNTS.keys() - {OUTPUT}
DELTAS = {"thinking_delta", "signature_delta", "input_json_delta", "compaction_delta"}
LARGEST_COUNT = 2**31 - 1
COMPACTION_BETA = "compact-2026-01-12"
COMPACTION = "compact_20260112"
# More tokens than a model can read.
NEVER_COMPACT = 100_000_000
# In errors that name a block, and in those that blame an image or a document without naming it.
_PLACE = re.compile(r"messages\.(\d+)\.content\.(\d+)(?:\.tool_result\.content\.(\d+))?\.(?:image|document|pdf)")
_UNREADABLE = re.compile(r"[Cc]ould not process (image|PDF)|PDF pages may be provided")
# What precedes the messages, for the provider that signs thinking.
BEGINNING = ("model", "system", "tools")
UNCOUNTED = ("max_tokens", "stop_sequences")


@dataclass(frozen=True, slots=True)
class Request:
    """A call: its body and its headers. `prefix` is all that it says, to which thinking in the reply is bound.

    `thinks`: it sends thinking of earlier replies. `places` are those of its attachments, in order: the numbers of the
    message, of its block and of the part of that block, and the attachment's id.
    """

    body: RequestBody
    headers: dict[str, str]
    prefix: Prefix
    thinks: bool
    places: tuple[tuple[int, int, int, str], ...]

    def blamed(self, message: str) -> list[str]:
        """Returns the ids of the attachments that an error's message blames.

        It names a place, `messages.4.content.1.image.source` for instance, or only says that an image or a document
        cannot be read: then it is one of the newest message that has any.
        """
        if (place := _PLACE.search(message)) is not None:
            named = tuple(int(digits or 0) for digits in place.groups())
            found = [at for at in self.places if at[:3] == named]
        elif _UNREADABLE.search(message) is not None:
            found = [at for at in self.places if at[0] == self.places[-1][0]]
        else:
            found = []
        return [attachment_id for *_, attachment_id in found]


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
    messages = _Messages(prompt.messages, slots, prefix)
    body = RequestBody(parameters, messages, slots, prompt.attachments)
    # Most prompts have none, and thousands of messages.
    places = tuple(_places(prompt.messages)) if prompt.attachments else ()
    return Request(body, headers, prefix, thinks=messages.thinks, places=places)


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


def without_thinking(prompt: Prompt) -> Prompt:
    """Returns a prompt without the thinking of earlier replies."""
    messages = tuple(replace(message, content=spoken(message.content)) for message in prompt.messages)
    return replace(prompt, messages=messages)


class _Messages:
    """Messages as they are sent, serialized one by one. Each is added to `prefix`.

    Thinking is left out of a reply to a request that said something else before it. That changes what precedes later
    replies, so their thinking is left out as well. `thinks`: some was sent.
    """

    def __init__(self, messages: Iterable[PromptMessage], slots: AttachmentSlots, prefix: Prefix) -> None:
        self.thinks = False
        self._messages = messages
        self._slots = slots
        self._prefix = prefix

    def __iter__(self) -> Iterator[bytes]:
        for message in self._messages:
            content = message.content
            if _summarizes(message):
                self._prefix.restart()
            bound_to = {block.bound_to for block in content if isinstance(block, ThinkingBlock)}
            if bound_to == {self._prefix.digest}:
                self.thinks = True
            elif bound_to:
                content = spoken(content)
            written = serialized({"role": ROLES[message.role], "content": _content(content, self._slots)})
            self._prefix.add(self._slots.without_mark(written))
            yield written


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
    """Reads the raw events of one reply to a request that says `prefix`. `complete` once it has ended.

    Events may leave out fields, and repeat themselves. Unknown ones are ignored, as are unknown blocks and deltas.
    """

    def __init__(self, *, prefix: Prefix, max_output_tokens: int) -> None:
        self.complete = False
        self._prefix = prefix
        self._message_id: Any = None
        self._counts = _Counts(max_output_tokens)
        self._stop_reason: StopReason | None = None
        self._details: StopDetails | None = None
        # By the provider's index, which differs from ours: empty blocks are not counted here.
        self._open: dict[int, _OpenBlock] = {}
        self._count = 0
        self._inputs: list[str] = []

    @property
    def whole(self) -> bool:
        """Returns whether the stop reason is known and no block is open: only the last event is missing."""
        return self._stop_reason is not None and not self._open

    @property
    def usage(self) -> ReplyUsage:
        """Returns the usage so far."""
        return self._counts.usage(hidden=any(opened.hides for opened in self._open.values()))

    def read(self, event: Any) -> Iterable[ReplyEvent]:
        """Returns the events of a raw event. Raises KeyError, TypeError or ValueError if it is malformed."""
        if self.complete:
            return ()
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            # Nearly all events are of this kind.
            return self._text_events(self._open[event["index"]], event["delta"]["text"])
        return self._read(event)

    def end(self) -> Iterator[ReplyEvent]:
        """Yields the last events of a reply. Raises ValueError if it cannot be complete."""
        for index in list(self._open):
            yield from self._end(self._open.pop(index))
        self._refuse_unreadable_calls()
        self.complete = True
        yield ReplyStop(self._stop_reason or StopReason.OTHER, self._details)

    def _read(self, event: Any) -> Iterator[ReplyEvent]:
        match event["type"]:
            case "content_block_delta" if event["delta"]["type"] in DELTAS:
                yield from self._more(self._open[event["index"]], event["delta"])
                if sum(opened.held for opened in self._open.values()) > CONTENT_BYTES:
                    # Not yielded before the block is complete, so nobody else could limit it.
                    self.complete = True
                    yield ReplyStop(StopReason.MAX_TOKENS)
            case "content_block_delta":
                self._counts.receive(_size(event["delta"]))
            case "content_block_start" if event["index"] not in self._open:
                yield from self._begin(event["index"], event["content_block"])
            case "content_block_stop" if event["index"] in self._open:
                yield from self._end(self._open.pop(event["index"]))
            case "message_start":
                self._start(event.get("message") or {})
            case "message_delta":
                delta = event.get("delta") or {}
                if (reason := delta.get("stop_reason")) is not None:
                    self._stop_reason = STOP_REASONS.get(reason, StopReason.OTHER)
                self._details = _stop_details(delta.get("stop_details")) or self._details
                self._counts.report(event.get("usage"), ends=True)
            case "message_stop":
                yield from self.end()

    def _start(self, message: Any) -> None:
        """Reads the start of the message. Raises ValueError if it is another message, whose text would be repeated."""
        message_id = message.get("id")
        if self._count and message_id != self._message_id:
            raise ValueError("another message within a reply")
        self._message_id = message_id
        self._counts.report(message.get("usage"), ends=False)

    def _begin(self, index: int, block: Any) -> Iterator[ReplyEvent]:
        opened = self._open[index] = _OpenBlock(block)
        match opened.kind:
            case "text":
                yield from self._text_events(opened, block.get("text") or "")
            case "thinking":
                yield from self._thinking_events(opened, block.get("thinking") or "")
            case "redacted_thinking":
                self._counts.receive(len(_text(block["data"])))
                yield ReplyThinking(self._place(opened), "")
            case "compaction":
                self._counts.summarize("")
            case _:
                self._counts.receive(_size(block))

    def _more(self, opened: "_OpenBlock", delta: Any) -> Iterator[ReplyEvent]:
        match delta["type"]:
            case "thinking_delta" if opened.kind == "thinking":
                yield from self._thinking_events(opened, delta["thinking"])
            case "signature_delta":
                self._counts.receive(len(delta["signature"]))
                opened.signature += _text(delta["signature"])
                opened.held += len(delta["signature"])
            case "input_json_delta":
                piece = opened.paired(delta["partial_json"])
                self._counts.receive(len(piece.encode()))
                opened.input.append(piece)
                opened.held += len(piece)
            case "compaction_delta":
                opened.compaction |= {name: value for name, value in delta.items() if name != "type"}

    def _end(self, opened: "_OpenBlock") -> Iterator[ReplyEvent]:
        rest = opened.rest()
        match opened.kind:
            case "text" if rest:
                yield ReplyText(self._place(opened), rest)
            case "thinking":
                place = self._place(opened)
                # The block's only event if the provider does not show its thinking.
                yield ReplyThinking(place, rest)
                yield self._thought(place, ThinkingBlock("", signature=opened.signature))
                self._counts.endless |= opened.hides
            case "redacted_thinking":
                redacted = _text(opened.block["data"])
                yield self._thought(self._place(opened), ThinkingBlock("", redacted=redacted))
            case "tool_use":
                opened.input.append(rest)
                block = opened.tool_use()
                self._inputs.append(block.input)
                yield ReplyToolUse(self._place(opened), block)
            case "compaction" if opened.compaction.get("content"):
                compacted = opened.compacted()
                self._counts.summarize(compacted.summary)
                self._prefix.restart()
                yield ReplyCompaction(self._place(opened), compacted)

    def _thought(self, place: int, block: ThinkingBlock) -> ReplyThinkingEnd:
        return ReplyThinkingEnd(place, replace(block, bound_to=self._prefix.digest))

    def _text_events(self, opened: "_OpenBlock", text: Any) -> list[ReplyEvent]:
        text = opened.paired(text)
        self._counts.receive(len(text.encode()))
        return [ReplyText(self._place(opened), text)] if text and opened.kind == "text" else []

    def _thinking_events(self, opened: "_OpenBlock", text: Any) -> list[ReplyEvent]:
        text = opened.paired(text)
        self._counts.receive(len(text.encode()))
        return [ReplyThinking(self._place(opened), text)] if text else []

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


class _Counts:
    """The tokens of a reply: what the provider has reported, and the most that the rest can be.

    Text has at most one token per byte. How long thinking was is seen from its signature, which contains all of it
    (https://platform.claude.com/docs/en/build-with-claude/extended-thinking): what is shown is a summary, or nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reported: dict[str, int] = {}
        self._unreadable: set[str] = set()
        # Whether the number of output tokens is that of all that was received.
        self._final = False
        self._received = 0
        # Whether there was thinking without a signature.
        self.endless = False
        # The bytes of summaries, None without one, and what was reported of them.
        self._summary: int | None = None
        self._summaries: dict[str, int] = {}

    def receive(self, size: int) -> None:
        """Adds bytes that were received."""
        self._received += size
        self._final = False

    def summarize(self, summary: str) -> None:
        """Adds a summary, which is empty before it is received."""
        self._summary = (self._summary or 0) + len(summary.encode())

    def report(self, usage: Any, *, ends: bool) -> None:
        """Merges what an event reports. Counts are cumulative, and it may omit those that have not changed.

        `ends`: its number of output tokens is not provisional.
        """
        if not isinstance(usage, dict):
            return
        for name in COUNTS:
            value = usage.get(name)
            if _is_count(value):
                self._reported[name] = value
                self._unreadable.discard(name)
            elif value is not None:
                self._unreadable.add(name)
        if ends and usage.get("output_tokens") is not None:
            # None at all is not the number of what was received.
            self._final = OUTPUT not in self._unreadable and (usage[OUTPUT] > 0 or not self._received)
        self._report_summaries(usage.get("iterations"))

    def _report_summaries(self, iterations: Any) -> None:
        """Reads the only place that reports the usage of compaction."""
        if not isinstance(iterations, list):
            return
        counts = [
            {name: entry.get(name) or 0 for name in COUNTS}
            for entry in iterations
            if isinstance(entry, dict) and entry.get("type") == "compaction"
        ]
        if counts and all(_is_count(value) for entry in counts for value in entry.values()):
            self._summaries = {name: sum(entry[name] for entry in counts) for name in COUNTS}

    def usage(self, *, hidden: bool) -> ReplyUsage:
        """Returns the usage so far. `hidden`: there is thinking that has not ended."""
        counts = {ours: self._reported.get(name, 0) + self._summaries.get(name, 0) for name, ours in COUNTS.items()}
        usage = Usage(
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
            cache_read_tokens=counts["cache_read_tokens"],
            cache_write_tokens=counts["cache_write_tokens"],
        )
        # Gateways report 0 where they do not know yet, but no prompt is empty.
        read = not self._unreadable & INPUTS and INPUT in self._reported and any(map(self._reported.get, INPUTS))
        reads = 0 if read else 1
        more = 0
        if not self._final:
            most = self._limit if hidden or self.endless else min(self._received, self._limit)
            more = max(0, most - self._reported.get(OUTPUT, 0))
        if self._summary is not None and not self._summaries:
            reads += 1
            more += min(self._summary or self._limit, self._limit)
        known = self._final and not reads
        return ReplyUsage(usage, None if known else usage.output_tokens + more, reads)


def _stop_details(details: Any) -> StopDetails | None:
    """Returns what is known of a refusal. Either of its texts may be null."""
    if not isinstance(details, dict):
        return None
    category, explanation = (
        text_within(_text(value), LARGEST_DETAIL) if isinstance(value, str) else ""
        for value in (details.get("category"), details.get("explanation"))
    )
    return StopDetails(category, explanation) if category or explanation else None


def _is_count(value: Any) -> TypeGuard[int]:
    """Returns whether a value is a count of tokens. It is stored and priced."""
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _size(value: Any) -> int:
    """Returns the bytes of a value as JSON."""
    return len(json.dumps(value))


class _OpenBlock:
    """A block that is not complete yet. `held` is the length of what is yielded only when it is."""

    __slots__ = ("_half", "block", "compaction", "held", "input", "kind", "place", "signature")

    def __init__(self, block: Any) -> None:
        self.block = block
        self.kind: str = block["type"]
        self.place: int | None = None
        self.held = 0
        self.signature = _text(block.get("signature") or "")
        self.input: list[str] = []
        self.compaction = {name: value for name, value in block.items() if name != "type" and value is not None}
        self._half = ""

    @property
    def hides(self) -> bool:
        """Returns whether it is thinking whose length is not known yet."""
        return self.kind == "thinking" and not self.signature

    def paired(self, text: Any) -> str:
        """Returns the text of a delta without halves of surrogate pairs, which JSON can express.

        A half at its end is kept for the next delta, others become U+FFFD. Raises TypeError for other types.
        """
        if not self._half:
            try:
                str.encode(text)
                return str(text)
            except UnicodeEncodeError:
                pass
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return _mended(text.removesuffix(self._half))

    def rest(self) -> str:
        """Returns the half that no delta has completed, as U+FFFD, or nothing."""
        return _mended(self._half)

    def tool_use(self) -> ToolUseBlock:
        # For a tool without parameters there is no delta, and the block's start has the input.
        written = "".join(self.input) or json.dumps(self.block.get("input") or {})
        return ToolUseBlock(_text(self.block["id"]), _text(self.block["name"]), written)

    def compacted(self) -> CompactionBlock:
        opaque = {name: value for name, value in self.compaction.items() if name != "content"}
        return CompactionBlock(_mended(self.compaction["content"]), json.dumps(opaque))


def _mended(text: str) -> str:
    """Returns text in which halves of surrogate pairs are joined, and single ones are U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: Any) -> str:
    """Returns text. Raises TypeError for other types, ValueError for lone surrogates: neither could be stored."""
    str.encode(value)
    return str(value)
