"""Page sizes and page tokens (AIP-158)."""

import base64
import binascii
import hashlib

import orjson
from google.protobuf.message import Message

from metamorphd.errors import PageTokenInvalid

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000
# A page ends before the first item beyond it, and an item has at most 1 MiB: an answer stays below 3 MiB.
PAGE_BYTES = 1_572_864
DIGEST_BYTES = 12

# Where a page begins: the values of the last row before it.
Position = tuple[int | str, ...]


def clamp_page_size(page_size: int) -> int:
    """0 is the default, more than the largest is the largest."""
    return min(page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


def encode_page_token(query: Message, vault_id: str, after: Position | None) -> str:
    """The token of the page after `after`; empty for None, after the last page."""
    if after is None:
        return ""
    return base64.urlsafe_b64encode(_digest(query, vault_id) + orjson.dumps(after)).decode().rstrip("=")


def decode_page_token(query: Message, vault_id: str, token: str, shape: tuple[type, ...]) -> Position | None:
    """Where the page begins, None for the first; values of the types in `shape`.

    Raises PageTokenInvalid for a token that was not made for this query.
    """
    if not token:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        values = orjson.loads(data[DIGEST_BYTES:])
    except (binascii.Error, ValueError):
        raise PageTokenInvalid from None
    if data[:DIGEST_BYTES] != _digest(query, vault_id) or not isinstance(values, list):
        raise PageTokenInvalid
    # orjson reads integers of up to 64 bits, as many as the store takes, but also unsigned ones.
    if tuple(map(type, values)) != shape or any(isinstance(value, int) and value >= 2**63 for value in values):
        raise PageTokenInvalid
    return tuple(values)


def _digest(query: Message, vault_id: str) -> bytes:
    """What the query asks for, page_size and page_token aside: the size may change from page to page."""
    asked = type(query)()
    asked.CopyFrom(query)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    # The vault id ends at the first NUL, which no vault id holds.
    bound = vault_id.encode() + b"\0" + asked.SerializeToString(deterministic=True)
    return hashlib.blake2b(bound, digest_size=DIGEST_BYTES).digest()
