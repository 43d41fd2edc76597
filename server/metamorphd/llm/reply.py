"""The wire format of the Messages API: the events of a reply.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

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
from metamorphd.llm.reply_blocks import DELTAS, Block, Blocks, as_object, delta_kind, mended, said, size_of
from metamorphd.llm.reply_usage import ReportedUsage
from metamorphd.models.content import (
    CONTENT_BYTES,
    ThinkingBlock,
    ToolUseBlock,
    text_within,
)
from metamorphd.models.span import Span
from metamorphd.models.turn import StopDetails, StopReason
from metamorphd.telemetry import names

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
# The provider's ids and names of models are shorter. In bytes.
LONGEST_NAME = 128
BEGINNINGS = {"message_start", "content_block_start", "message_delta"}


class Reply:
    """Reads the raw events of one reply to a request that says `prefix`. `complete` once it has ended.

    `begun` once anything of it was received.

    Events may leave out fields, repeat themselves and come late, and null is as good as left out. Unknown ones are
    ignored, as are unknown blocks and deltas. What is there but cannot be read makes a reply malformed, because leaving
    it out would show another reply as a whole one: text that is no text, or a delta of a block that has not begun.
    """

    def __init__(self, *, prefix: Prefix, max_output_tokens: int) -> None:
        self.complete = False
        self.begun = False
        self._prefix = prefix
        self._message_id: Any = None
        self._model: Any = None
        self._counts = ReportedUsage(max_output_tokens)
        self._stop_reason: StopReason | None = None
        self._details: StopDetails | None = None
        # By the provider's index, which differs from ours: empty blocks are not counted here.
        self._blocks = Blocks()
        self._open = self._blocks.open
        self._count = 0
        self._inputs: list[str] = []
        # One that is repeated, with its id, would be made twice.
        self._calls: set[ToolUseBlock] = set()

    @property
    def blocks(self) -> int:
        """Returns how many blocks have begun."""
        return self._blocks.begun

    @property
    def whole(self) -> bool:
        """Returns whether the stop reason is known and no block is open: only the last event is missing.

        What was said before a refusal is not needed, so its blocks may be open.
        """
        return self._stop_reason is StopReason.REFUSAL or (self._stop_reason is not None and not self._open)

    @property
    def usage(self) -> ReplyUsage:
        """Returns the usage so far."""
        return self._counts.usage(hidden=self._blocks.hiding > 0)

    def describe(self, span: Span) -> None:
        """Adds what is known of the reply to the span of its call."""
        if not span.recorded:
            return
        for name, value in (
            (names.GEN_AI_RESPONSE_ID, self._message_id),
            (names.GEN_AI_RESPONSE_MODEL, self._model),
        ):
            if isinstance(value, str):
                span.describe({name: text_within(mended(value), LONGEST_NAME)})
        reason = next((name for name, known in STOP_REASONS.items() if known is self._stop_reason), None)
        if reason is not None:
            span.describe({names.GEN_AI_FINISH_REASONS: [reason]})

    def read(self, event: Any) -> Iterable[ReplyEvent]:
        """Returns the events of a raw event. Raises AttributeError, TypeError or ValueError if it is malformed."""
        if self.complete:
            return ()
        try:
            delta = event["delta"]
            if delta["type"] == "text_delta" and event["type"] == "content_block_delta":
                # Nearly all events are of this kind.
                block, text = self._open[event["index"]], delta["text"]
                if block.kind == "text" and text.__class__ is str:
                    return self._text_events(block, text)
        except (KeyError, TypeError):
            # Something is missing or of another kind.
            pass
        return self._read(event)

    def end(self) -> Iterator[ReplyEvent]:
        """Yields the last events of a reply. Raises TypeError or ValueError if it cannot be complete."""
        for block in self._blocks.end_all():
            yield from self._end(block)
        self._refuse_unreadable_calls()
        self.complete = True
        details = self._details if self._stop_reason is StopReason.REFUSAL else None
        yield ReplyStop(self._stop_reason or StopReason.OTHER, details)

    def _read(self, event: dict[str, Any]) -> Iterator[ReplyEvent]:
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        self.begun |= kind in BEGINNINGS
        match kind:
            case "content_block_delta":
                yield from self._continue(event, as_object(event.get("delta")))
            case "content_block_start":
                if (begun := self._blocks.begin(event)) is not None:
                    yield from self._begin(begun, as_object(event.get("content_block")))
                    yield from self._limit()
            case "content_block_stop":
                if (ended := self._blocks.end(event)) is not None:
                    yield from self._end(ended)
            case "message_start":
                self._start(as_object(event.get("message")))
            case "message_delta":
                delta = as_object(event.get("delta"))
                reason = delta.get("stop_reason")
                if isinstance(reason, str) and reason:
                    self._stop_reason = STOP_REASONS.get(reason, StopReason.OTHER)
                self._details = _stop_details(as_object(delta.get("stop_details")), self._details)
                self._counts.report(event.get("usage"), ends=True)
            case "message_stop":
                yield from self.end()

    def _start(self, message: Any) -> None:
        """Reads the start of the message. Raises ValueError if it is another message, whose text would be repeated."""
        message_id = message.get("id") or self._message_id
        if self._count and self._message_id and message_id != self._message_id:
            raise ValueError("another message within a reply")
        self._message_id = message_id
        self._model = message.get("model") or self._model
        self._counts.report(message.get("usage"), ends=False)

    def _begin(self, block: Block, fields: dict[str, Any]) -> Iterator[ReplyEvent]:
        match block.kind:
            case "text":
                yield from self._text_events(block, said(fields.get("text")))
            case "thinking":
                yield from self._thinking_events(block, said(fields.get("thinking")))
            case "redacted_thinking":
                self._counts.receive(len(block.redacted.encode()))
                if block.redacted:
                    yield ReplyThinking(self._place(block), "")
            case "compaction":
                self._counts.summarize("")
            case _:
                self._counts.receive(size_of(fields))

    def _continue(self, event: dict[str, Any], delta: dict[str, Any]) -> Iterator[ReplyEvent]:
        kind = delta_kind(delta)
        if kind not in DELTAS:
            self._counts.receive(size_of(delta))
            return
        block = self._blocks.find(event)
        if block is None:
            raise ValueError("a delta of a block that has not begun")
        if not block.takes(kind):
            self._counts.receive(size_of(delta))
            if block.kind == "tool_use" and delta.get("partial_json"):
                # The call was yielded without it.
                self._inputs.append("")
            return
        try:
            yield from self._more(block, kind, delta)
        finally:
            if not block.ended:
                self._blocks.count(block)
        yield from self._limit()

    def _limit(self) -> Iterator[ReplyEvent]:
        """Ends a reply whose blocks hold too much: it is not yielded before they end, so nobody else could limit it."""
        if self._blocks.held > CONTENT_BYTES:
            self.complete = True
            yield ReplyStop(StopReason.MAX_TOKENS)

    def _more(self, block: Block, kind: str, delta: dict[str, Any]) -> Iterator[ReplyEvent]:
        match kind:
            case "text_delta":
                yield from self._text_events(block, said(delta.get("text")))
            case "thinking_delta":
                yield from self._thinking_events(block, said(delta.get("thinking")))
            case "signature_delta":
                signature = mended(said(delta.get("signature")))
                self._counts.receive(len(signature))
                block.sign(signature)
            case "input_json_delta":
                piece = block.paired(said(delta.get("partial_json")))
                self._counts.receive(len(piece.encode()))
                block.input.append(piece)
                block.held += len(piece)
            case "compaction_delta":
                block.add_compaction(delta)

    def _end(self, block: Block) -> Iterator[ReplyEvent]:
        rest = block.rest()
        match block.kind:
            case "text" if rest:
                yield ReplyText(self._place(block), rest)
            case "thinking":
                place = self._place(block)
                # The block's only event if the provider does not show its thinking.
                yield ReplyThinking(place, rest)
                yield self._thought(place, ThinkingBlock("", signature=block.signature))
                self._counts.endless |= block.hides
            case "redacted_thinking" if block.redacted:
                yield self._thought(self._place(block), ThinkingBlock("", redacted=block.redacted))
            case "tool_use":
                block.input.append(rest)
                called = block.tool_use()
                if called is None:
                    # One that names no tool is as unreadable as one without an input.
                    self._inputs.append("")
                elif called not in self._calls:
                    self._inputs.append(called.input)
                    self._calls.add(called)
                    yield ReplyToolUse(self._place(block), called)
            case "compaction" if (compacted := block.compacted()) is not None:
                self._counts.summarize(compacted.summary)
                self._prefix.restart()
                yield ReplyCompaction(self._place(block), compacted)
        block.end()

    def _thought(self, place: int, block: ThinkingBlock) -> ReplyThinkingEnd:
        return ReplyThinkingEnd(place, replace(block, bound_to=self._prefix.digest))

    def _text_events(self, block: Block, text: str) -> list[ReplyEvent]:
        text = block.paired(text)
        self._counts.receive(len(text.encode()))
        return [ReplyText(self._place(block), text)] if text else []

    def _thinking_events(self, block: Block, text: str) -> list[ReplyEvent]:
        text = block.paired(text)
        self._counts.receive(len(text.encode()))
        return [ReplyThinking(self._place(block), text)] if text else []

    def _refuse_unreadable_calls(self) -> None:
        """Raises ValueError if the input of a tool call is incomplete, unless the reply was cut short."""
        if self._stop_reason is StopReason.TOOL_USE:
            for written in self._inputs:
                json_object(written)

    def _place(self, block: Block) -> int:
        """Returns our index of the block, which is assigned with its first content."""
        if block.place is None:
            block.place = self._count
            self._count += 1
        return block.place


def _stop_details(details: dict[str, Any], known: StopDetails | None) -> StopDetails | None:
    """Returns what is known of a refusal, with what these details add to it. Either of its texts may be null."""
    category, explanation = (
        text_within(mended(value), LARGEST_DETAIL) if isinstance(value, str) else ""
        for value in (details.get("category"), details.get("explanation"))
    )
    if not (category or explanation):
        return known
    known = known or StopDetails("", "")
    return StopDetails(category or known.category, explanation or known.explanation)
