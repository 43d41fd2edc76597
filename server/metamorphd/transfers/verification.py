"""Reads an export that may come from anywhere, line by line, and refuses what is not one."""

import binascii
import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from metamorphd.models.attachment import ID_DIGITS
from metamorphd.models.export import FORMAT_VERSION
from metamorphd.models.imports import Line, Refused
from metamorphd.models.media_signatures import MediaCheck
from metamorphd.store.attachments import CHUNK_BYTES
from metamorphd.transfers.rules import RECORDS, wrong_field

# The longest content, with every character escaped.
LONGEST_LINE = 20 * 2**20
# A line of brackets would take up a hundred times its size in memory.
MOST_VALUES = 100_000
# One that does not end is a text too, and nothing is tried twice: else the time would grow with the square of a line.
TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
# Which kinds may follow a kind. Others are between header and trailer in any order.
OF_ATTACHMENT = ("attachment", "attachment_chunk")
FOLLOWS = {
    "message": {"session", "message"},
    "turn": {"session", "message", "turn"},
    "attachment_chunk": {"attachment", "attachment_chunk"},
    "secret_version": {"secret", "secret_version"},
}


class Arriving:
    """Looks at an export while it arrives, without keeping it: a line that does not end is noticed before the disk is
    full of it."""

    def __init__(self) -> None:
        self._lines = 1
        self._length = 0

    def add(self, data: bytes) -> None:
        """Takes the next bytes. Raises Refused."""
        last = data.rfind(b"\n")
        first = data.find(b"\n")
        if self._length + (len(data) if first < 0 else first) > LONGEST_LINE:
            raise Refused(self._lines, "line_too_long", f"a line has at most {LONGEST_LINE} bytes")
        self._lines += data.count(b"\n")
        self._length = self._length + len(data) if last < 0 else len(data) - last - 1


@dataclass(frozen=True, slots=True)
class Part:
    """Lines of a file: the place of the first one, its number, and the place after the last one."""

    start: int = 0
    number: int = 1
    end: int = sys.maxsize


WHOLE, NOTHING = Part(), Part(end=0)


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that can be imported: its records by kind, and the part in which all attachments are."""

    counts: Mapping[str, int]
    attachments: Part


class Verifying:
    """Looks at each line of a file."""

    def __init__(self) -> None:
        self._hashed, self._counts, self._before = hashlib.sha256(), dict[str, int](), ""
        self._chunks = _Chunks()
        self._attachments = NOTHING
        self._trailer: Mapping[str, Any] | None = None
        self._number = self._place = 0

    def add(self, text: bytes) -> None:
        """Takes the next line. Raises Refused."""
        self._number, start, self._place = self._number + 1, self._place, self._place + len(text)
        if not text.endswith(b"\n"):
            raise Refused(self._number, "truncated", "the line does not end")
        if self._trailer is not None:
            raise Refused(self._number, "after_end", "there is more after the trailer")
        line = _parsed(self._number, text)
        _in_order(line, self._before)
        self._before = line.kind
        if line.kind == "trailer":
            self._trailer = line.record
            return
        self._hashed.update(text)
        if line.kind != "header":
            self._chunks.add(line)
        # A kind that is not known has no name here, and the trailer's count of it is left out too.
        if line.kind not in ("header", ""):
            self._counts[line.kind] = self._counts.get(line.kind, 0) + 1
        if line.kind in OF_ATTACHMENT:
            first = self._attachments if self._attachments.end else Part(start, self._number)
            self._attachments = replace(first, end=self._place)

    def verified(self) -> Verified:
        """Returns the file, once all lines were added. Raises Refused."""
        if self._trailer is None:
            raise Refused(self._number, "truncated", "there is no trailer")
        self._chunks.end(self._number)
        if self._trailer["sha256"] != self._hashed.hexdigest():
            raise Refused(self._number, "checksum", "the SHA-256 of what precedes the trailer is another one")
        known = {kind: count for kind, count in self._trailer["counts"].items() if kind in RECORDS}
        if known != self._counts:
            raise Refused(self._number, "counts", "the trailer counts other records")
        return Verified(self._counts, self._attachments)


def line_of(number: int, text: bytes) -> Line:
    """Returns a line of a file that was verified, with a null for each field that is missing. One of a kind that is not
    known has none.
    """
    record = orjson.loads(text)
    kind = record["kind"] if record["kind"] in RECORDS else ""
    return Line(number, kind, dict.fromkeys(RECORDS[kind]) | record if kind else record, len(text))


def chunk_bytes(line: Line) -> bytes:
    """Returns the bytes of a chunk of an attachment. Raises Refused."""
    try:
        return binascii.a2b_base64(line.record["data"], strict_mode=True)
    except (binascii.Error, ValueError):
        raise Refused(line.number, "field", "attachment_chunk.data is not base64") from None


def _parsed(number: int, text: bytes) -> Line:
    """Returns the record of a line. That of a kind which is not known has no kind."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MOST_VALUES:
        outside = TEXTS.sub(b"", text)
        if outside.count(b",") + outside.count(b"[") + outside.count(b"{") > MOST_VALUES:
            raise Refused(number, "too_many_values", f"a record has at most {MOST_VALUES} values")
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refused(number, "json", "the line is not JSON") from None
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str):
        raise Refused(number, "kind", "the record has no kind")
    if number == 1 and kind != "header":
        raise Refused(number, "not_an_export", "the first record is no header")
    if kind not in RECORDS:
        # A later server's.
        return Line(number, "", record, len(text))
    if (wrong := wrong_field(kind, record)) is not None:
        raise Refused(
            number, "not_an_export" if kind == "header" else "field", f"{kind}.{wrong} is not as it should be"
        )
    if kind == "header" and record["version"] > FORMAT_VERSION:
        raise Refused(number, "version", f"the format's version is above {FORMAT_VERSION}")
    return Line(number, kind, record, len(text))


def _in_order(line: Line, before: str) -> None:
    if (line.kind == "header") != (line.number == 1):
        raise Refused(line.number, "order", "a header is the first record")
    if line.kind in FOLLOWS and before not in FOLLOWS[line.kind]:
        raise Refused(line.number, "order", f"a {line.kind} does not follow a record that it belongs to")


class _Chunks:
    """The chunks of attachments: as many as the size says, with the bytes of the hash."""

    def __init__(self) -> None:
        self._attachment: Mapping[str, Any] | None = None
        self._hashed = self._named = hashlib.sha256()
        self._media = MediaCheck("")
        self._number = self._size = 0

    def add(self, line: Line) -> None:
        if line.kind == "attachment_chunk":
            self._chunk(line)
            return
        self.end(line.number)
        if line.kind == "attachment":
            self._attachment = line.record
            self._hashed, self._number, self._size = hashlib.sha256(), 0, 0
            self._named = hashlib.sha256(line.record["media_type"].encode() + b"\0")
            self._media = MediaCheck(line.record["media_type"])

    def _chunk(self, line: Line) -> None:
        attachment = self._attachment
        if attachment is None or line.record["attachment_id"] != attachment["attachment_id"]:
            raise Refused(line.number, "order", "a chunk does not follow its attachment")
        data = chunk_bytes(line)
        left = attachment["size"] - self._size
        if line.record["number"] != self._number or len(data) != min(left, CHUNK_BYTES) or not data:
            raise Refused(line.number, "attachment", "the chunk has another number or size than it should have")
        self._hashed.update(data)
        self._named.update(data)
        if not self._media.fits(data, last=len(data) == left):
            raise Refused(line.number, "attachment", "the bytes of the attachment are not of its media type")
        self._number, self._size = self._number + 1, self._size + len(data)

    def end(self, number: int) -> None:
        """Raises Refused if the attachment before a line is not whole."""
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        if self._size != attachment["size"] or self._hashed.hexdigest() != attachment["sha256"]:
            raise Refused(number - 1, "attachment", "the bytes of the attachment are not those of its SHA-256")
        if attachment["attachment_id"] != f"att_{self._named.hexdigest()[:ID_DIGITS]}":
            raise Refused(number - 1, "attachment", "the ID of the attachment does not belong to its bytes")
