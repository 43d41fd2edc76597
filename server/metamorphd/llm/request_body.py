"""The bodies of requests to the provider, encoded while they are sent.

A body is larger than its attachments by a third, and several copies of it would be made on the way to the socket. So
attachments are read piece by piece, and encoded in small steps, between which other calls run.
"""

import asyncio
import codecs
import json
import re
import secrets
from binascii import b2a_base64
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import orjson

from metamorphd.errors import DomainError
from metamorphd.llm.interface import AttachmentData

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

    def without_mark(self, serialized: bytes) -> bytes:
        """Returns what was serialized with the ids of attachments alone, the same in every request."""
        return serialized.replace(self._mark.encode(), b"")

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
    """A JSON body: a request, which is not empty, and its messages, which are serialized.

    An iterable, because a retry sends it again. Messages are serialized one by one, since all at once would hold the
    GIL for milliseconds. `failure` is why an attachment could not be read, which ends the call and all its retries.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        messages: Iterable[bytes],
        slots: AttachmentSlots,
        attachments: Mapping[str, AttachmentData],
    ) -> None:
        self.failure: DomainError | None = None
        self._attachments = attachments
        self._parts = list(_joined(_pieces(request, messages, slots)))

    async def size(self) -> int:
        """Returns the length of the body, in bytes. How long text is when it is escaped shows by reading it."""
        size = 0
        for part in self._parts:
            if isinstance(part, bytes):
                size += len(part)
            elif part[1]:
                size += sum([len(piece) async for piece in self._encoded(*part)])
            else:
                size += (self._attachments[part[0]].size + 2) // 3 * 4
        return size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.failure is not None:
            raise self.failure
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            try:
                async for piece in self._encoded(*part):
                    yield piece
            except DomainError as exc:
                self.failure = exc
                raise

    def _encoded(self, attachment_id: str, plain: bool) -> AsyncIterator[bytes]:
        return (_escaped if plain else _base64)(self._attachments[attachment_id].pieces())

    def clear(self) -> None:
        """Drops the content. The SDK keeps a reference to the body as long as the reply is read."""
        self._parts.clear()
        self._attachments = {}


def _pieces(
    request: Mapping[str, Any], messages: Iterable[bytes], slots: AttachmentSlots
) -> Iterator[bytes | tuple[str, bool]]:
    yield serialized(request)[:-1] + b',"messages":['
    separator = b""
    for message in messages:
        yield separator
        yield from slots.split(message)
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


def serialized(request: Mapping[str, Any]) -> bytes:
    """Returns JSON, with members in the given order."""
    try:
        return orjson.dumps(request)
    except TypeError:
        # Integers of more than 64 bits, which tools may have. orjson's error is a TypeError.
        return json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


async def _base64(pieces: AsyncIterator[bytes | memoryview]) -> AsyncIterator[bytes]:
    """Yields data in base64, in steps."""
    held = bytearray()
    async for step in _steps(pieces):
        held += step
        # Three bytes are four characters, so that what is encoded in steps can be joined.
        whole = len(held) // 3 * 3
        yield b2a_base64(held[:whole], newline=False)
        del held[:whole]
    yield b2a_base64(held, newline=False)


async def _escaped(pieces: AsyncIterator[bytes | memoryview]) -> AsyncIterator[bytes]:
    """Yields text in UTF-8 as the content of a JSON string, in steps."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    async for step in _steps(pieces):
        yield orjson.dumps(decoder.decode(step))[1:-1]


async def _steps(pieces: AsyncIterator[bytes | memoryview]) -> AsyncIterator[memoryview]:
    async for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), STEP_BYTES):
            yield view[start : start + STEP_BYTES]
            # A socket that takes all of it would not let other calls run.
            await asyncio.sleep(0)
