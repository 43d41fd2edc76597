"""Reads the end of a PDF: whether it is whole, and whether it is encrypted. Names of sections are of ISO 32000-1."""

import re

# In bytes; what is copied or searched at once, and keeps the GIL.
STEP_BYTES = 256 * 1024
# A dictionary of a trailer has a dozen entries.
TRAILER_BYTES = 16 * 1024
# The dictionary that says so is at the beginning (F.3.1).
LINEARIZED_BYTES = 1024

START = re.compile(rb"startxref\s{0,64}(\d{1,10})")
TABLE = re.compile(rb"\s{0,64}xref\b")
STREAM = re.compile(rb"\s{0,64}\d{1,10}\s{1,64}\d{1,10}\s{1,64}obj\b")
ENCRYPT = re.compile(rb"/Encrypt\s{0,64}(?:\d{1,10}\s{1,64}\d{1,10}\s{1,64}R\b|<<)")

Data = bytes | memoryview


def is_whole(data: Data) -> bool:
    """Returns whether a PDF has the end that every PDF has (7.5.5).

    What precedes it, and follows it, is not examined: viewers repair much. The first part of a linearized PDF has an
    end of its own, which names no place.
    """
    at = _last(data, b"startxref", len(data))
    if at is None or (start := START.match(data, at)) is None:
        return False
    return int(start[1]) > 0 or b"/Linearized" not in bytes(data[:LINEARIZED_BYTES])


def is_encrypted(data: Data) -> bool:
    """Returns whether the trailer of a PDF names an encryption, with a password or without one (7.6.1)."""
    end = _last(data, b"startxref", len(data))
    if end is None or (start := START.match(data, end)) is None:
        return False
    at = int(start[1])
    if STREAM.match(data, at):
        return _names_encryption(data, at, b"stream")
    # If the place is wrong, viewers look for the trailer.
    trailer = _first(data, b"trailer", at) if TABLE.match(data, at) else _last(data, b"trailer", end)
    return trailer is not None and _names_encryption(data, trailer, b"startxref")


def _names_encryption(data: Data, at: int, stop: bytes) -> bool:
    return ENCRYPT.search(bytes(data[at : at + TRAILER_BYTES]).split(stop)[0]) is not None


def _first(data: Data, word: bytes, start: int) -> int | None:
    for at in range(start, len(data), STEP_BYTES):
        if (found := bytes(data[at : at + STEP_BYTES + len(word)]).find(word)) >= 0:
            return at + found
    return None


def _last(data: Data, word: bytes, end: int) -> int | None:
    for stop in range(end, 0, -STEP_BYTES):
        at = max(stop - STEP_BYTES, 0)
        if (found := bytes(data[at : stop + len(word)]).rfind(word)) >= 0:
            return at + found
    return None
