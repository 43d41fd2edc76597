"""Images and documents stored in a vault."""

import hashlib
from dataclasses import dataclass

# 160 bits make it infeasible to find two contents with the same id.
ID_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or document stored in a vault. `size` is in bytes, `sha256` in hexadecimal.

    `longest_side` is that of an image, in pixels, `pages` how many a PDF states that it has; each is 0 if unknown.
    """

    attachment_id: str
    media_type: str
    size: int
    sha256: str
    create_time: int
    longest_side: int = 0
    pages: int = 0


@dataclass(frozen=True, slots=True)
class Upload:
    """An attachment to store, with its bytes, which may be a view of the request that they came in."""

    attachment_id: str
    media_type: str
    sha256: str
    data: bytes | memoryview
    longest_side: int = 0
    pages: int = 0

    @classmethod
    def of(cls, media_type: str, data: bytes | memoryview, *, longest_side: int = 0, pages: int = 0) -> "Upload":
        """Returns bytes as an attachment. Its id is a hash, so equal bytes are the same attachment within a vault."""
        digest = hashlib.sha256(media_type.encode() + b"\0")
        digest.update(data)
        attachment_id = f"att_{digest.hexdigest()[:ID_DIGITS]}"
        return cls(attachment_id, media_type, hashlib.sha256(data).hexdigest(), data, longest_side, pages)
