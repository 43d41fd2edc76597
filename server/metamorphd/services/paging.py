"""Page sizes and page tokens (AIP-158)."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import orjson
from google.protobuf.message import Message

from metamorphd.errors import PageTokenInvalid

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000
# A page may exceed this by its last item, of at most 1 MiB, so a response stays below 3 MiB.
PAGE_BYTES = 1_572_864
DIGEST_BYTES = 12
# Converting these takes less than a millisecond.
STEP_ITEMS = 32

T = TypeVar("T")
U = TypeVar("U")

# Where a page begins: the values of the last row before it.
Position = tuple[int | str, ...]


def clamp_page_size(page_size: int) -> int:
    """Returns the page size to use: the default for 0, and at most the maximum."""
    return min(page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


async def convert_items(convert: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Returns the items of a page, converted in steps, between which other calls run."""
    converted: list[U] = []
    for start in range(0, len(items), STEP_ITEMS):
        if start:
            await asyncio.sleep(0)
        converted += map(convert, items[start : start + STEP_ITEMS])
    return converted


def encode_page_token(query: Message, vault_id: str, after: Position | None) -> str:
    """Returns the token of the page that begins after `after`, or empty text if `after` is None, on the last page."""
    if after is None:
        return ""
    return base64.urlsafe_b64encode(_digest(query, vault_id) + orjson.dumps(after)).decode().rstrip("=")


def decode_page_token(query: Message, vault_id: str, token: str, shape: tuple[type, ...]) -> Position | None:
    """Returns the position after which the page begins, or None for the first page. Its values have the types `shape`.

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
    # orjson also reads unsigned 64-bit integers, and the store takes signed ones only.
    if tuple(map(type, values)) != shape or any(isinstance(value, int) and value >= 2**63 for value in values):
        raise PageTokenInvalid
    return tuple(values)


def _digest(query: Message, vault_id: str) -> bytes:
    """Returns a digest of the query without page_token, and what may change between pages."""
    fields = type(query)()
    fields.CopyFrom(query)
    for name in ("page_size", "page_token", "at_least_revision"):
        if name in fields.DESCRIPTOR.fields_by_name:
            fields.ClearField(name)
    # NUL separates the two unambiguously, since no vault id contains it.
    bound = vault_id.encode() + b"\0" + fields.SerializeToString(deterministic=True)
    return hashlib.blake2b(bound, digest_size=DIGEST_BYTES).digest()
