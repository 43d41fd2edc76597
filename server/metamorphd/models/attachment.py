"""Images and documents of a vault."""

import hashlib
from dataclasses import dataclass

# 160 bits are too many to find two contents with one id.
ID_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or a document of a vault. `size` in bytes, `sha256` in hexadecimal digits."""

    attachment_id: str
    media_type: str
    size: int
    sha256: str
    create_time: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An attachment to be stored, and its bytes."""

    attachment_id: str
    media_type: str
    sha256: str
    data: bytes

    @classmethod
    def of(cls, media_type: str, data: bytes) -> "Upload":
        """Returns bytes as an attachment. Its id is a hash: the same bytes are the same attachment of their vault."""
        digest = hashlib.sha256(media_type.encode() + b"\0")
        digest.update(data)
        attachment_id = f"att_{digest.hexdigest()[:ID_DIGITS]}"
        return cls(attachment_id, media_type, hashlib.sha256(data).hexdigest(), data)
