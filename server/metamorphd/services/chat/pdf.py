"""Reads a PDF from its end: whether it is whole, whether it is encrypted, how many pages it has. Sections are of ISO
32000-1.

Nothing is decompressed, because a PDF decides how much that takes.
"""

import re

# In bytes; what is copied or searched at once, and keeps the GIL.
STEP_BYTES = 256 * 1024
# The dictionary of a trailer has a dozen entries.
TRAILER_BYTES = 16 * 1024
# The dictionary that says so is at the beginning (F.3.1).
LINEARIZED_BYTES = 1024
# White space of any kind (7.2.3) as spaces.
SPACES = bytes.maketrans(b"\0\t\n\f\r", b"     ")

START = re.compile(rb"startxref\s{0,64}(\d{1,10})")
TABLE = re.compile(rb"\s{0,64}xref\b")
STREAM = re.compile(rb"\s{0,64}\d{1,10}\s{1,64}\d{1,10}\s{1,64}obj\b")
REFERENCE = rb"\s{0,64}(\d{1,10})\s{1,64}(\d{1,5})\s{1,64}R\b"
ROOT, PAGES = re.compile(rb"/Root" + REFERENCE), re.compile(rb"/Pages" + REFERENCE)
COUNT = re.compile(rb"/Count\s{0,64}(\d{1,9})(?![\d.]|\s{1,64}\d{1,10}\s{1,64}R\b)")
LENGTH, LINEARIZED_COUNT = re.compile(rb"/L\s{0,64}(\d{1,10})\b"), re.compile(rb"/N\s{0,64}(\d{1,9})\b")
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
    return ENCRYPT.search(_trailer(data)) is not None


def pages_of(data: Data) -> int:
    """Returns how many pages a PDF states that it has (7.7.3.2), 0 if it states that in what is compressed.

    A linearized PDF also states it at its beginning (F.3.3), which is true if nothing was added since.
    """
    root = ROOT.search(_trailer(data))
    catalog = _object(data, root) if root else b""
    pages = PAGES.search(catalog) if b"/Catalog" in catalog else None
    count = COUNT.search(_object(data, pages)) if pages else None
    return int(count[1]) if count else _linearized_pages(data)


def _linearized_pages(data: Data) -> int:
    beginning = bytes(data[:LINEARIZED_BYTES]).partition(b"endobj")[0]
    length, count = LENGTH.search(beginning), LINEARIZED_COUNT.search(beginning)
    linearized = b"/Linearized" in beginning and length is not None and int(length[1]) == len(data)
    return int(count[1]) if linearized and count else 0


def _trailer(data: Data) -> bytes:
    end = _last(data, b"startxref", len(data))
    if end is None or (start := START.match(data, end)) is None:
        return b""
    at = int(start[1])
    if STREAM.match(data, at):
        return bytes(data[at : at + TRAILER_BYTES]).split(b"stream")[0]
    # If the place is wrong, viewers look for the trailer.
    trailer = _first(data, b"trailer", at) if TABLE.match(data, at) else _last(data, b"trailer", end)
    return b"" if trailer is None else bytes(data[trailer : trailer + TRAILER_BYTES]).split(b"startxref")[0]


def _object(data: Data, reference: re.Match[bytes]) -> bytes:
    """Returns the last object with a number and a generation: later ones replace earlier ones (7.5.6).

    One whose name is written with more than a space between its parts is not found.
    """
    # A regular expression for any spacing takes a second for 20 MB, in steps that hold up the event loop.
    name = b" %d %d obj" % (int(reference[1]), int(reference[2]))
    for start in range((len(data) - 1) // STEP_BYTES * STEP_BYTES, -1, -STEP_BYTES):
        part = bytes(data[start : start + STEP_BYTES + len(name)]).translate(SPACES)
        if (found := part.rfind(name)) >= 0:
            content = start + found + len(name)
            return bytes(data[content : content + STEP_BYTES]).partition(b"endobj")[0]
    return b""


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
