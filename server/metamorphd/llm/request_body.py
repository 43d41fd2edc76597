"""The bodies of requests to the provider, encoded while they are sent.

A body is larger than its attachments by a third, and several copies of it would be made on the way to the socket. So
attachments stay as they are, and are encoded in small steps, between which other calls run.
"""

import codecs
import json
import re
import secrets
from binascii import b2a_base64
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import orjson

# A multiple of 3, so that the pieces of base64 can be joined.
STEP_BYTES = 48 * 1024


class AttachmentSlots:
    """Stands in for the data of attachments while a request is built and serialized."""

    def __init__(self) -> None:
        # Unguessable, because a caller's text must not be taken for a slot.
        self._mark = secrets.token_hex(16)

    def text(self, attachment_id: str) -> str:
        """Returns the string that stands for an attachment's data as text."""
        return f"{self._mark}:text:{attachment_id}"

    def base64(self, attachment_id: str) -> str:
        """Returns the string that stands for an attachment's data in base64."""
        return f"{self._mark}:base64:{attachment_id}"

    def split(self, serialized: bytes) -> Iterator[bytes | tuple[str, bool]]:
        """Yields the bytes between slots, and for each slot the id of its attachment and whether it is sent as text."""
        if self._mark.encode() not in serialized:
            yield serialized
            return
        pattern = rb"(%s:(text|base64):([\w-]+))" % self._mark.encode()
        pieces = re.split(pattern, serialized)
        for place in range(0, len(pieces), 4):
            yield pieces[place]
            if place + 3 < len(pieces):
                yield pieces[place + 3].decode(), pieces[place + 2] == b"text"


class RequestBody:
    """A JSON body: a request, which is not empty, and its messages. `size` is its length in bytes.

    An iterable, because a retry sends it again. Messages are serialized one by one, since all at once would hold the
    GIL for milliseconds.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        messages: Iterable[Mapping[str, Any]],
        slots: AttachmentSlots,
        attachments: Mapping[str, bytes | bytearray],
    ) -> None:
        self._attachments = attachments
        self._parts = list(_joined(_pieces(request, messages, slots)))
        self.size = sum(len(part) if isinstance(part, bytes) else self._size(*part) for part in self._parts)

    def _size(self, attachment_id: str, plain: bool) -> int:
        data = self._attachments[attachment_id]
        return sum(map(len, _encoded(data, plain=True))) if plain else (len(data) + 2) // 3 * 4

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                attachment_id, plain = part
                for piece in _encoded(self._attachments[attachment_id], plain=plain):
                    yield piece

    def clear(self) -> None:
        """Drops the content. The SDK keeps a reference to the body as long as the reply is read."""
        self._parts.clear()
        self._attachments = {}


def _pieces(
    request: Mapping[str, Any], messages: Iterable[Mapping[str, Any]], slots: AttachmentSlots
) -> Iterator[bytes | tuple[str, bool]]:
    yield _serialized(request)[:-1] + b',"messages":['
    separator = b""
    for message in messages:
        yield separator
        yield from slots.split(_serialized(message))
        separator = b","
    yield b"]}"


def _joined(pieces: Iterable[bytes | tuple[str, bool]]) -> Iterator[bytes | tuple[str, bool]]:
    """Yields pieces with successive bytes joined, up to about `STEP_BYTES`: each one that is sent takes 20 µs."""
    held = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes):
            held += piece
            if len(held) < STEP_BYTES:
                continue
        if held:
            yield bytes(held)
            held.clear()
        if not isinstance(piece, bytes):
            yield piece
    if held:
        yield bytes(held)


def _serialized(request: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(request)
    except TypeError:
        # Integers of more than 64 bits, which tools may have. orjson's error is a TypeError.
        return json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _encoded(data: bytes | bytearray, *, plain: bool) -> Iterator[bytes]:
    """Yields data as the content of a JSON string, in pieces: base64, or escaped text."""
    view = memoryview(data)
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), STEP_BYTES):
        step = view[start : start + STEP_BYTES]
        yield orjson.dumps(decoder.decode(step))[1:-1] if plain else b2a_base64(step, newline=False)
