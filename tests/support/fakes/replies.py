"""Replies of the fake Messages API and their encoding on the wire."""

import asyncio
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

WRITE_BYTES = 64 * 1024
# A placeholder that is replaced with the time of sending.
STAMP = b"0" * 20


@dataclass(frozen=True, eq=False)
class Block:
    """A block other than text: its content_block_start and its deltas."""

    start: dict[str, Any]
    deltas: tuple[dict[str, Any], ...] = ()


def thinking(text: str, signature: str = "") -> Block:
    """Returns a thinking block. Without a signature it was interrupted."""
    signed = ({"type": "signature_delta", "signature": signature},) if signature else ()
    deltas = ({"type": "thinking_delta", "thinking": text},) if text else ()
    return Block({"type": "thinking", "thinking": "", "signature": ""}, deltas + signed)


def redacted_thinking(data: str) -> Block:
    """Returns a block of redacted thinking."""
    return Block({"type": "redacted_thinking", "data": data})


def tool_use(tool_use_id: str, name: str, *pieces: str) -> Block:
    """Returns a tool call whose input is sent as `pieces` of JSON."""
    deltas = tuple({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return Block({"type": "tool_use", "id": tool_use_id, "name": name, "input": {}}, deltas)


def compaction(summary: str, **opaque: str) -> Block:
    """Returns a compaction block with a summary of the conversation."""
    delta = {"type": "compaction_delta", "content": summary, **opaque}
    return Block({"type": "compaction", "content": None}, (delta,))


# Compared by identity, so that the encoding of a reply can be cached.
@dataclass(frozen=True, eq=False)
class Reply:
    """A whole reply of `chunks`, text or other blocks, unless it ends early.

    `ending` after the chunks: "stop", "drop" (the connection is reset), "tear" (the same, in the middle of an event),
    "error" (an error event of `error_type`), "stall" (silence until the client leaves), "garbage" (an event whose data
    is `garbage`), "truncate" (the response ends without message_stop). The reply waits for `hold` after the
    first `hold_after` chunks. `delay` precedes each chunk; `uneven` varies it between zero and twice its length.
    """

    chunks: tuple[str | Block, ...]
    ending: str = "stop"
    error_type: str = "api_error"
    garbage: bytes = b"{no json"
    stop_reason: str = "end_turn"
    stop_details: dict[str, Any] | None = None
    delay: float = 0.0
    uneven: bool = False
    hold: asyncio.Event | None = None
    hold_after: int = 1
    stamped: bool = False
    iterations: tuple[dict[str, Any], ...] = ()
    usage: dict[str, int] = field(
        default_factory=lambda: {"input_tokens": 11, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}
    )


@dataclass(frozen=True)
class Refusal:
    """An error instead of a reply. `error_code` states a more specific cause."""

    status: int
    error_type: object
    headers: tuple[tuple[str, str], ...] = ()
    error_code: str = ""
    message: str = "the provider's own words"


@dataclass(frozen=True)
class Count:
    """The response to a token count request."""

    tokens: object


@dataclass(frozen=True)
class Silence:
    """No response at all until the client disconnects."""


@dataclass(frozen=True)
class Hangup:
    """A connection reset before any response."""


@dataclass(frozen=True)
class Raw:
    """Any response, whose `later` parts follow its body, each after `pause` seconds. `ending` after them: "end", "drop"
    (the connection is reset), "stall" (silence until the client leaves), "ping" (the same, but with a ping every
    10 ms)."""

    body: bytes
    content_type: str = "text/event-stream"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    ending: str = "end"
    later: tuple[bytes, ...] = ()
    pause: float = 0.0


Behaviour = Reply | Refusal | Count | Silence | Hangup | Raw


@lru_cache(maxsize=16)
def parts(reply: Reply, model: str) -> tuple[bytes, ...]:
    """Returns the response body in parts: before, for each and after the chunks; fewer without pauses."""
    parts = _frames(reply, model)
    if not (reply.delay or reply.hold):
        whole = b"".join(parts)
        parts = [whole[start : start + WRITE_BYTES] for start in range(0, len(whole), WRITE_BYTES)]
    return tuple(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)


def _frames(reply: Reply, model: str) -> list[bytes]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**reply.usage, "output_tokens": 1},
    }
    frames = [_sse("message_start", message=message) + _sse("ping")]
    index, text_open = -1, False
    for chunk in reply.chunks:
        before = b""
        if text_open and isinstance(chunk, Block):
            before, text_open = _sse("content_block_stop", index=index), False
        if isinstance(chunk, Block):
            index += 1
            frames.append(before + _block(index, chunk))
            continue
        if not text_open:
            index, text_open = index + 1, True
            before = _sse("content_block_start", index=index, content_block={"type": "text", "text": ""})
        frames.append(before + _sse("content_block_delta", index=index, delta={"type": "text_delta", "text": chunk}))
    return [*frames, _ending(reply, index if text_open else None)]


def _block(index: int, block: Block) -> bytes:
    deltas = b"".join(_sse("content_block_delta", index=index, delta=delta) for delta in block.deltas)
    return (
        _sse("content_block_start", index=index, content_block=block.start)
        + deltas
        + _sse("content_block_stop", index=index)
    )


def _ending(reply: Reply, open_block: int | None) -> bytes:
    match reply.ending:
        case "stop":
            delta: dict[str, Any] = {"stop_reason": reply.stop_reason, "stop_sequence": None}
            if reply.stop_details is not None:
                delta["stop_details"] = reply.stop_details
            usage: dict[str, Any] = {"output_tokens": len(reply.chunks)}
            if reply.iterations:
                usage["iterations"] = list(reply.iterations)
            stop = b"" if open_block is None else _sse("content_block_stop", index=open_block)
            return stop + _sse("message_delta", delta=delta, usage=usage) + _sse("message_stop")
        case "error":
            return _sse("error", error={"type": reply.error_type, "message": "the provider's own words"})
        case "tear":
            return b'event: content_block_delta\ndata: {"type": "content_block_'
        case "garbage":
            return b"event: content_block_delta\ndata: " + reply.garbage + b"\n\n"
    return b""


def sse(*events: dict[str, Any]) -> bytes:
    """Returns events of a stream, each named by its type."""
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def _sse(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
