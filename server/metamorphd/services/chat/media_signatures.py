"""Checks bytes against a media type."""

import re

# File signatures, from the WHATWG MIME Sniffing Standard (section 6).
SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBPVP", re.DOTALL),
    "application/pdf": re.compile(rb"%PDF-"),
}


def is_media(media_type: str, data: bytes) -> bool:
    """Returns whether `data` has the signature of `media_type`; `text/plain` must be valid UTF-8 without NUL."""
    if media_type == "text/plain":
        return b"\0" not in data and _is_utf8(data)
    return SIGNATURES[media_type].match(data) is not None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
