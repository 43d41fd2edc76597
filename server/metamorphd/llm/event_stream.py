"""An incremental decoder of server-sent events (WHATWG HTML Living Standard, section 9.2.6).

The SDK's own decoder reads line by line and creates an object for each event. It takes five times as long, more than
all other work for a word.
"""

import re

from metamorphd.errors import UpstreamNotAStream

# Far more than any event of the Messages API. Without a bound, an endless event would fill the memory.
LARGEST_EVENT = 8 * 1024 * 1024


BOM = b"\xef\xbb\xbf"
# By their first character, which begins no line of a stream that anybody sends.
DOCUMENTS = {b"<": "text/html", b"{": "application/json", b"[": "application/json"}


class ErrorData(bytes):
    """The data of an event named `error`, which need not say so."""


# The names of its fields, and a comment (section 9.2.5).
_FIELD = re.compile(rb"(?:data|event|id|retry)?[:\n]|(?:data|event|id|retry)\Z")


class EventStream:
    """Decodes a stream of bytes, chunk by chunk."""

    def __init__(self) -> None:
        # What was read of an event that has not ended. Copied in pieces, it would take the square of its size.
        self._rest = bytearray()
        # A final "\r", which may be the first half of a line break, or the beginning of a byte order mark.
        self._held = b""
        self._begun = False
        # Whether no event has come.
        self._silent = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the data of the events that end in `chunk`, in order. Events without data are omitted.

        Raises ValueError for an event of more than `LARGEST_EVENT` bytes, and UpstreamNotAStream for a page or a JSON
        document, whatever its headers say that it is. Costs as much as the chunk and the events that end in it.
        """
        unread = self._held + chunk
        self._held = b""
        if not self._begun:
            if len(unread) < len(BOM) and BOM.startswith(unread):
                self._held = unread
                return []
            unread = unread.removeprefix(BOM).lstrip(b" \t\r\n")
            self._begun = unread != b""
            if document := DOCUMENTS.get(unread[:1]):
                raise UpstreamNotAStream(content_type=document)
        if b"\r" in unread:
            self._held = unread[-1:] if unread.endswith(b"\r") else b""
            unread = unread.removesuffix(self._held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        found = [data for event in self._ended(unread) if (data := _data(event))]
        if len(self._rest) > LARGEST_EVENT:
            raise ValueError("the event is too large")
        self._silent = self._silent and not found
        return found

    def _ended(self, unread: bytes) -> list[bytes]:
        """Returns the events that end in `unread`, and keeps what follows them."""
        if self._rest:
            # There is no end before, but half of one may be its last byte.
            begin = len(self._rest) - 1
            self._rest += unread
            if self._rest.find(b"\n\n", begin) < 0:
                return []
            unread = bytes(self._rest)
        *events, rest = unread.split(b"\n\n")
        self._rest = bytearray(rest)
        return events

    def end(self) -> None:
        """Raises UpstreamNotAStream if what was fed is other text without an event, such as the error of a proxy."""
        rest = self._rest + self._held
        if self._silent and rest.strip() and _FIELD.match(rest) is None:
            raise UpstreamNotAStream(content_type="text/plain")


def _data(event: bytes) -> bytes:
    """Returns the data of an event, which has one field per line. Names but `error` are ignored: it has a type."""
    lines = event.split(b"\n")
    data = b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])
    return ErrorData(data) if b"event: error" in lines or b"event:error" in lines else data
