"""Checks bytes against a media type."""

import codecs
import re

# File signatures, from the WHATWG MIME Sniffing Standard (section 6).
IMAGES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBPVP", re.DOTALL),
}
SIGNATURES = IMAGES | {"application/pdf": re.compile(rb"%PDF-")}
MEDIA_TYPES = (*SIGNATURES, "text/plain")
ANYTHING = re.compile(rb"")

# In bytes; what takes a while to decode and keeps the GIL.
STEP_BYTES = 256 * 1024
# ASCII white space is what the provider and the contract take for blank.
NOT_BLANK = re.compile(rb"[^ \t\n\f\r]")


class MediaCheck:
    """Checks bytes that arrive in pieces, the first with the signature, against a media type.

    A text must be valid UTF-8 without NUL.
    """

    def __init__(self, media_type: str) -> None:
        self._signature = SIGNATURES.get(media_type)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def fits(self, piece: bytes | memoryview, *, last: bool = False) -> bool:
        """Returns whether the next piece does not contradict the media type."""
        if self._signature is not None:
            fits, self._signature = self._signature.match(piece) is not None, ANYTHING
            return fits
        try:
            return "\0" not in self._decoder.decode(piece, final=last)
        except UnicodeDecodeError:
            return False


def is_media(media_type: str, data: bytes | memoryview) -> bool:
    """Returns whether all of `data` fits a media type, as MediaCheck does."""
    check = MediaCheck(media_type)
    pieces = (data[start : start + STEP_BYTES] for start in range(0, len(data), STEP_BYTES))
    return all(map(check.fits, pieces)) and check.fits(b"", last=True)


def image_type(data: bytes) -> str | None:
    """Returns the media type of an image, by its signature, or None if it is none that models see."""
    return next((media_type for media_type, signature in IMAGES.items() if signature.match(data)), None)


def is_blank(text: bytes | memoryview) -> bool:
    """Returns whether a text in UTF-8 is only white space, as a text block may not be."""
    starts = range(0, len(text), STEP_BYTES)
    return not any(NOT_BLANK.search(text, start, start + STEP_BYTES) for start in starts)
