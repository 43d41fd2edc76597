"""The wire format of the Messages API: the events of a reply.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from metamorphd.llm.interface import (
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
from metamorphd.llm.reply_usage import ReportedUsage
from metamorphd.models.content import (
    CONTENT_BYTES,
    CompactionBlock,
    ThinkingBlock,
    ToolUseBlock,
    text_within,
)
from metamorphd.models.turn import StopDetails, StopReason

STOP_REASONS = {
    "end_turn": StopReason.END_TURN,
    "max_tokens": StopReason.MAX_TOKENS,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "tool_use": StopReason.TOOL_USE,
    "pause_turn": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_EXCEEDED,
}
# In bytes, of each text of a refusal.
LARGEST_DETAIL = 4096
# An escape of JSON: a pair, half a pair or anything else, such as a backslash.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
)
BEGINNINGS = {"message_start", "content_block_start", "message_delta"}
DELTAS = {"thinking_delta", "signature_delta", "input_json_delta", "compaction_delta"}


class Reply:
    """Reads the raw events of one reply to a request that says `prefix`. `complete` once it has ended.

    `begun` once anything of it was received, and `blocks` is the number of blocks that have begun.

    Events may leave out fields, and repeat themselves. Unknown ones are ignored, as are unknown blocks and deltas.
    """

    def __init__(self, *, prefix: Prefix, max_output_tokens: int) -> None:
        self.complete = False
        self.begun = False
        self.blocks = 0
        self._prefix = prefix
        self._message_id: Any = None
        self._counts = ReportedUsage(max_output_tokens)
        self._stop_reason: StopReason | None = None
        self._details: StopDetails | None = None
        # By the provider's index, which differs from ours: empty blocks are not counted here.
        self._open: dict[int, _OpenBlock] = {}
        self._count = 0
        self._inputs: list[str] = []

    @property
    def whole(self) -> bool:
        """Returns whether the stop reason is known and no block is open: only the last event is missing.

        What was said before a refusal is not needed, so its blocks may be open.
        """
        return self._stop_reason is StopReason.REFUSAL or (self._stop_reason is not None and not self._open)

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
        details = self._details if self._stop_reason is StopReason.REFUSAL else None
        yield ReplyStop(self._stop_reason or StopReason.OTHER, details)

    def _read(self, event: Any) -> Iterator[ReplyEvent]:
        self.begun |= event["type"] in BEGINNINGS
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
                self._start(_object(event.get("message")))
            case "message_delta":
                delta = _object(event.get("delta"))
                reason = delta.get("stop_reason")
                if isinstance(reason, str) and reason:
                    self._stop_reason = STOP_REASONS.get(reason, StopReason.OTHER)
                self._details = _stop_details(_object(delta.get("stop_details")), self._details)
                self._counts.report(event.get("usage"), ends=True)
            case "message_stop":
                yield from self.end()

    def _start(self, message: Any) -> None:
        """Reads the start of the message. Raises ValueError if it is another message, whose text would be repeated."""
        message_id = message.get("id") or self._message_id
        if self._count and self._message_id and message_id != self._message_id:
            raise ValueError("another message within a reply")
        self._message_id = message_id
        self._counts.report(message.get("usage"), ends=False)

    def _begin(self, index: int, block: Any) -> Iterator[ReplyEvent]:
        opened = self._open[index] = _OpenBlock(block)
        self.blocks += 1
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


def _object(value: Any) -> dict[str, Any]:
    """Returns an object, which is empty where there is none."""
    return value if isinstance(value, dict) else {}


def _stop_details(details: dict[str, Any], known: StopDetails | None) -> StopDetails | None:
    """Returns what is known of a refusal, with what these details add to it. Either of its texts may be null."""
    category, explanation = (
        text_within(_mended(value), LARGEST_DETAIL) if isinstance(value, str) else ""
        for value in (details.get("category"), details.get("explanation"))
    )
    if not (category or explanation):
        return known
    known = known or StopDetails("", "")
    return StopDetails(category or known.category, explanation or known.explanation)


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
        return ToolUseBlock(_text(self.block["id"]), _text(self.block["name"]), _ESCAPE.sub(_whole_escape, written))

    def compacted(self) -> CompactionBlock:
        opaque = {name: value for name, value in self.compaction.items() if name != "content"}
        return CompactionBlock(_mended(self.compaction["content"]), json.dumps(opaque))


def _mended(text: str) -> str:
    """Returns text in which halves of surrogate pairs are joined, and single ones are U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _whole_escape(escape: re.Match[str]) -> str:
    """Returns an escape of JSON, U+FFFD for half a pair."""
    return "\\ufffd" if escape["half"] else escape.group()


def _text(value: Any) -> str:
    """Returns text. Raises TypeError for other types, ValueError for lone surrogates: neither could be stored."""
    str.encode(value)
    return str(value)
