"""Decodes JSON Web Tokens (RFC 7519, RFC 7515), without verifying them."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metamorphd.errors import TokenInvalid

# A JWT has three parts. Other kinds of tokens with three parts have another `typ` (RFC 8725, section 3.11).
_PARTS = 3
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class Token:
    """A decoded JWT, not verified."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def decode(text: str) -> Token | None:
    """Returns a decoded JWT, or None for a token of another kind. Raises TokenInvalid for a malformed JWT."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        return None
    header, claims, _ = (_decoded(part) for part in parts)
    token = Token(text, _object(header), _object(claims))
    kind = token.header.get("typ", "JWT")
    if not isinstance(token.header.get("alg"), str):
        raise TokenInvalid("alg is missing, or not text")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenInvalid("typ is not that of a JWT")
    # `crit` lists extensions that must be understood (RFC 7515, section 4.1.11), and we implement none.
    for name in ("crit", "b64"):
        if name in token.header:
            raise TokenInvalid(f"{name} is not supported")
    return token


def _decoded(part: str) -> bytes:
    """Decodes unpadded base64url (RFC 7515, section 2). Raises TokenInvalid unless it is the canonical encoding."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise TokenInvalid("a part is not base64url")
    return data


def _object(data: bytes) -> Mapping[str, Any]:
    """Parses a JSON object. Raises TokenInvalid for duplicate members: the issuer may have meant either of them."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenInvalid("a member is there twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise TokenInvalid("a number is not finite")

    try:
        # Strictly UTF-8: `loads` would guess at other encodings.
        value = json.loads(data.decode(), object_pairs_hook=members, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise TokenInvalid("a part is not JSON") from None
    if not isinstance(value, dict):
        raise TokenInvalid("a part is not a JSON object")
    return value
