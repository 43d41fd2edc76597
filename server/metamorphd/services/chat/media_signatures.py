"""Checks bytes against a media type."""

import codecs
import re

# File signatures, from the WHATWG MIME Sniffing Standard (section 6).
SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBPVP", re.DOTALL),
    "application/pdf": re.compile(rb"%PDF-"),
}


# In bytes; what takes a while to decode and keeps the GIL.
STEP_BYTES = 256 * 1024
# ASCII white space is what the provider and the contract take for blank.
NOT_BLANK = re.compile(rb"[^ \t\n\f\r]")


def is_media(media_type: str, data: bytes | memoryview) -> bool:
    """Returns whether `data` has the signature of `media_type`; `text/plain` must be valid UTF-8 without NUL."""
    if media_type == "text/plain":
        return _is_text(data)
    return SIGNATURES[media_type].match(data) is not None


def is_blank(text: bytes | memoryview) -> bool:
    """Returns whether a text in UTF-8 is only white space, as a text block may not be."""
    starts = range(0, len(text), STEP_BYTES)
    return not any(NOT_BLANK.search(text, start, start + STEP_BYTES) for start in starts)


def _is_text(data: bytes | memoryview) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), STEP_BYTES):
            if "\0" in decoder.decode(data[start : start + STEP_BYTES]):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
