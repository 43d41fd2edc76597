"""The blocks of a reply of the Messages API, from the events that begin, continue and end them."""

import json
import re
from typing import Any
from uuid import uuid4

from metamorphd.models.content import CompactionBlock, ToolUseBlock

# An escape of JSON: a pair, half a pair or anything else, such as a backslash.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
)
_NUMBER = re.compile(r"[0-9]{1,9}")
# The rule of ToolResultBlock.tool_use_id.
_CALL_ID = re.compile(r"[!-~]{1,128}")
# What only a block, or a delta, of a kind has, for those that do not say theirs.
_BLOCK_FIELDS = {"text": "text", "thinking": "thinking", "name": "tool_use"}
_DELTA_FIELDS = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "signature": "signature_delta",
    "partial_json": "input_json_delta",
}
# The kind of the block that a delta continues.
DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
    "compaction_delta": "compaction",
}


def delta_kind(delta: dict[str, Any]) -> str:
    """Returns the type of a delta, that of its only field if it does not say its own, or nothing."""
    return _kind(delta, _DELTA_FIELDS)


def _kind(value: dict[str, Any], by_field: dict[str, str]) -> str:
    kind = value.get("type")
    if isinstance(kind, str):
        return kind
    return next((of for name, of in by_field.items() if isinstance(value.get(name), str)), "")


# The kinds of blocks whose first fields are needed at their end. One that has not said its kind may be of any.
_KEPT = {"", "tool_use", "redacted_thinking"}


class Block:
    """A block that has begun. `held` is the size of what is yielded only when it has `ended`.

    `counted` is what `Blocks` has counted of it: `held`, and whether it `hides`.
    """

    __slots__ = ("_fields", "_half", "_signature", "compaction", "counted", "ended", "held", "input", "kind", "place")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.kind = _kind(fields, _BLOCK_FIELDS)
        self.place: int | None = None
        self.ended = False
        self.held = 0
        self.counted = (0, False)
        self.input: list[str] = []
        self.compaction: dict[str, Any] = {}
        self._signature: list[str] = []
        self._fields = fields if self.kind in _KEPT else {}
        self._half = ""
        self.sign(mended(said(fields.get("signature"))))
        if self._fields:
            self.held += size_of(fields)
        if self.kind == "compaction":
            self.add_compaction(fields)

    @property
    def hides(self) -> bool:
        """Returns whether it is thinking whose length is not known yet."""
        return self.kind == "thinking" and not self._signature

    @property
    def signature(self) -> str:
        """Returns the signature of thinking, which may come in pieces."""
        return "".join(self._signature)

    def sign(self, piece: str) -> None:
        """Adds a piece of the signature."""
        if piece:
            self._signature.append(piece)
            self.held += len(piece)

    @property
    def redacted(self) -> str:
        """Returns the data of redacted thinking. Raises TypeError if it is not text."""
        return mended(said(self._fields.get("data")))

    def takes(self, kind: str) -> bool:
        """Returns whether deltas of a kind continue it: after its end, only text, which nobody waits for.

        One that has not said its kind is of the first delta's.
        """
        self.kind = self.kind or DELTAS[kind]
        return self.kind == DELTAS[kind] and (not self.ended or self.kind == "text")

    def paired(self, text: str) -> str:
        """Returns the text of a delta without halves of surrogate pairs, which JSON can express.

        A half at its end is kept for the next delta, others become U+FFFD.
        """
        if not self._half:
            try:
                text.encode()
            except UnicodeEncodeError:
                pass
            else:
                return text
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return mended(text.removesuffix(self._half))

    def rest(self) -> str:
        """Returns the half that no delta has completed, as U+FFFD, or nothing. It is returned once."""
        half, self._half = self._half, ""
        return mended(half)

    def add_compaction(self, fields: dict[str, Any]) -> None:
        """Merges what is said of a summary. Null says nothing."""
        self.held += size_of(fields)
        self.compaction |= {name: value for name, value in fields.items() if name != "type" and value is not None}

    def tool_use(self) -> ToolUseBlock | None:
        """Returns the tool call, or None if it names no tool. One whose id no result could have gets another."""
        name, call_id = (mended(said(self._fields.get(field))) for field in ("name", "id"))
        call_id = call_id if _CALL_ID.fullmatch(call_id) else f"toolu_{uuid4().hex}"
        # For a tool without parameters there is no delta, and the block's start has the input.
        written = "".join(self.input) or json.dumps(self._fields.get("input") or {})
        return ToolUseBlock(call_id, name, _whole(written)) if name else None

    def compacted(self) -> CompactionBlock | None:
        """Returns the summary, or None if there is none. Raises TypeError if it is not text."""
        summary = mended(said(self.compaction.get("content")))
        opaque = {name: value for name, value in self.compaction.items() if name != "content"}
        return CompactionBlock(summary, _whole(json.dumps(opaque))) if summary else None

    def end(self) -> None:
        """Forgets all but what later events may refer to."""
        self.ended = True
        self.held = 0
        self.input, self.compaction, self._signature, self._fields = [], {}, [], {}


class Blocks:
    """The blocks of a reply, by the provider's index. `begun` is how many have begun.

    Of those that are open, `held` is the sum of what they hold, and `hiding` is how many hide their length: a reply may
    have thousands, at which nobody could look at every event.

    Events may repeat themselves or come late, and their index may be missing or unreadable, which means the newest one.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.held = 0
        self.hiding = 0
        self.open: dict[int, Block] = {}
        self._ended: dict[int, Block] = {}
        self._newest = -1
        self._next = 0

    def begin(self, event: dict[str, Any]) -> Block | None:
        """Returns the block that an event begins, or None if it is open already."""
        index = _index(event)
        index = self._next if index is None else index
        if index in self.open:
            return None
        block = self.open[index] = Block(as_object(event.get("content_block")))
        self._ended.pop(index, None)
        self._newest, self._next = index, max(self._next, index + 1)
        self.begun += 1
        self.count(block)
        return block

    def find(self, event: dict[str, Any]) -> Block | None:
        """Returns the block that an event continues, which may have ended, or None if it has not begun."""
        index = self._index(event)
        return self.open.get(index) or self._ended.get(index)

    def end(self, event: dict[str, Any]) -> Block | None:
        """Returns the block that an event ends, or None if it is not open."""
        index = self._index(event)
        block = self.open.pop(index, None)
        if block is not None:
            self._ended[index] = block
            self._count(block, 0, hides=False)
        return block

    def count(self, block: Block) -> None:
        """Counts again an open block that may have changed."""
        self._count(block, block.held, hides=block.hides)

    def _count(self, block: Block, held: int, *, hides: bool) -> None:
        before, hid = block.counted
        self.held += held - before
        self.hiding += hides - hid
        block.counted = (held, hides)

    def end_all(self) -> list[Block]:
        """Returns those that are open, which end, and the texts that have ended, to which something may have come."""
        ended = [*self.open.values(), *(block for block in self._ended.values() if block.kind == "text")]
        self.open.clear()
        self._ended.clear()
        self.held = self.hiding = 0
        return ended

    def _index(self, event: dict[str, Any]) -> int:
        index = _index(event)
        return self._newest if index is None else index


def _index(event: dict[str, Any]) -> int | None:
    """Returns the index of an event's block, or None if there is none that can be read."""
    index = event.get("index")
    if isinstance(index, str) and _NUMBER.fullmatch(index):
        return int(index)
    return int(index) if isinstance(index, int) or (isinstance(index, float) and index.is_integer()) else None


def as_object(value: Any) -> dict[str, Any]:
    """Returns an object, which is empty where there is none."""
    return value if isinstance(value, dict) else {}


def said(value: Any) -> str:
    """Returns text, which is empty where there is none. Raises TypeError for other types."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def size_of(value: Any) -> int:
    """Returns the bytes of a value as JSON."""
    return len(json.dumps(value))


def mended(text: str) -> str:
    """Returns text in which halves of surrogate pairs are joined, and single ones are U+FFFD. Others are not stored."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _whole(written: str) -> str:
    """Returns JSON without escapes of half a pair, which are U+FFFD."""
    return _ESCAPE.sub(lambda escape: "\\ufffd" if escape["half"] else escape.group(), written)
