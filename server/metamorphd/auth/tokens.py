"""Verifies bearer tokens: JSON Web Tokens (RFC 7519, RFC 8725) with our keys, others with the Emblem API."""

import base64
import binascii
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import jwt

from metamorphd.auth.claims import caller_of
from metamorphd.auth.emblem import ACCEPTED_SECONDS, EmblemApi
from metamorphd.auth.jwks import ALGORITHMS, KeySet
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.clock import Clock
from metamorphd.errors import TokenExpired, TokenInvalid, TokenRevoked
from metamorphd.models.caller import Caller

# The only algorithm accepted for a shared secret.
SHARED = "HS256"
LONGEST_TOKEN = 8192
LEEWAY_SECONDS = 30
CACHED_TOKENS = 10_000
# Syntax of a Bearer token (RFC 6750, section 2.1).
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# A JWT has three parts. Other kinds of tokens with three parts have another `typ` (RFC 8725, section 3.11).
_PARTS = 3
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class Token:
    """A decoded JWT, not verified."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified caller; valid until `until`, in microseconds since the epoch."""

    caller: Caller
    until: int


class TokenVerifier:
    """Verifies tokens, and caches the callers, never past the token's expiry.

    `permissions` are those that a token can grant. `secrets` have at least 32 bytes each, the current one first. A
    token must have the `issuer` and `audience` if they are given. `emblem` verifies the tokens that are not ours:
    opaque ones, those of an issuer other than `issuer`, and all if there is neither a secret nor a key set. It is never
    a fallback for a token of ours that is invalid.
    """

    def __init__(
        self,
        *,
        permissions: AbstractSet[str],
        secrets: Sequence[str],
        key_set: KeySet | None,
        emblem: EmblemApi | None,
        revoked_tokens: RevokedTokens,
        clock: Clock,
        issuer: str | None,
        audience: str | None,
    ) -> None:
        self._permissions = permissions
        self._secrets = secrets
        self._key_set = key_set
        self._emblem = emblem
        self._revoked_tokens = revoked_tokens
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._verified: dict[str, Verified] = {}

    def verify(self, text: str) -> Caller | Coroutine[Any, Any, Caller]:
        """Returns the caller that a token names, or a coroutine of it if a request to another server is needed first.

        Raises TokenInvalid, TokenExpired, TokenRevoked; the coroutine also raises IdentityUnavailable.
        """
        known = self._verified.get(text)
        if known is not None:
            if self._clock.now() < known.until:
                return self._admit(known.caller)
            del self._verified[text]
        if len(text) > LONGEST_TOKEN or not _BEARER.fullmatch(text):
            raise TokenInvalid
        token = _read(text)
        if self._foreign(token):
            return self._introspect(text, token)
        if token is None:
            raise TokenInvalid
        algorithm, key_id = token.header.get("alg"), token.header.get("kid")
        if algorithm == SHARED:
            return self._accept(token, self._decode(token, self._secrets, SHARED))
        if self._key_set is None or algorithm not in ALGORITHMS or not isinstance(key_id, str):
            raise TokenInvalid
        key = self._key_set.known(key_id, algorithm)
        if key is None:
            return self._fetch(self._key_set, token, key_id, algorithm)
        return self._accept(token, self._decode(token, [key], algorithm))

    def _foreign(self, token: Token | None) -> bool:
        if token is None or (not self._secrets and self._key_set is None):
            return self._emblem is not None
        return self._emblem is not None and bool(self._issuer) and token.claims.get("iss", self._issuer) != self._issuer

    async def _fetch(self, key_set: KeySet, token: Token, key_id: str, algorithm: str) -> Caller:
        key = await key_set.key(key_id, algorithm)
        return self._accept(token, self._decode(token, [key], algorithm))

    async def _introspect(self, text: str, token: Token | None) -> Caller:
        if self._emblem is None:
            raise TokenInvalid
        caller = await self._emblem.caller(text)
        now = self._clock.now()
        if token is not None and "exp" in token.claims:
            # The API has verified the whole token, so its other claims can be trusted too.
            named = {"vault_id": caller.vault_id, "vaultId": caller.vault_id, "user_id": "unused"}
            claimed = caller_of({**token.claims, **named}, permissions=self._permissions, now=now)
            caller = replace(
                caller, token_id=claimed.token_id, issue_time=claimed.issue_time, expire_time=claimed.expire_time
            )
        return self._keep(text, caller, longest=now + int(ACCEPTED_SECONDS * 1e6))

    def _accept(self, token: Token, claims: Mapping[str, Any]) -> Caller:
        caller = caller_of(claims, permissions=self._permissions, now=self._clock.now())
        return self._keep(token.text, caller, longest=None)

    def _keep(self, text: str, caller: Caller, *, longest: int | None) -> Caller:
        ends = [] if caller.expire_time is None else [caller.expire_time + LEEWAY_SECONDS * 1_000_000]
        until = min(ends + ([] if longest is None else [longest]))
        if self._clock.now() >= until:
            raise TokenExpired
        if len(self._verified) >= CACHED_TOKENS:
            self._verified.pop(next(iter(self._verified)))
        self._verified[text] = Verified(caller, until)
        return self._admit(caller)

    def _admit(self, caller: Caller) -> Caller:
        if self._revoked_tokens.revoked(caller):
            raise TokenRevoked
        return caller

    def _decode(self, token: Token, keys: Sequence[Any], algorithm: str) -> Mapping[str, Any]:
        """Returns the claims if one of the keys signed them with `algorithm`. Raises TokenInvalid, TokenExpired."""
        for key in keys:
            try:
                return self._verified_claims(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise TokenExpired from None
            # The built-in ones: numbers too large for Python's own conversions.
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
                raise TokenInvalid from None
        raise TokenInvalid

    def _verified_claims(self, token: Token, key: Any, algorithm: str) -> Mapping[str, Any]:
        required = ["exp"] + (["iss"] if self._issuer else []) + (["aud"] if self._audience else [])
        return jwt.decode(
            token.text,
            key,
            algorithms=[algorithm],
            leeway=LEEWAY_SECONDS,
            issuer=self._issuer,
            audience=self._audience,
            options={
                "require": required,
                "verify_aud": self._audience is not None,
                "verify_iss": self._issuer is not None,
                "enforce_minimum_key_length": True,
            },
        )


def _read(text: str) -> Token | None:
    """Returns a decoded JWT, or None for a token of another kind. Raises TokenInvalid for a malformed JWT."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        return None
    header, claims, _ = (_decoded(part) for part in parts)
    token = Token(text, _object(header), _object(claims))
    kind = token.header.get("typ", "JWT")
    if not isinstance(token.header.get("alg"), str):
        raise TokenInvalid
    # `crit` lists extensions that must be understood (RFC 7515, section 4.1.11), and we implement none.
    if not isinstance(kind, str) or kind.lower() not in _TYPES or "crit" in token.header or "b64" in token.header:
        raise TokenInvalid
    return token


def _decoded(part: str) -> bytes:
    """Decodes unpadded base64url (RFC 7515, section 2). Raises TokenInvalid unless it is the canonical encoding."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid from None
    if not data or base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise TokenInvalid
    return data


def _object(data: bytes) -> Mapping[str, Any]:
    """Parses a JSON object. Raises TokenInvalid for duplicate members: the issuer may have meant either of them."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenInvalid
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise TokenInvalid

    try:
        # Strictly UTF-8: `loads` would guess at other encodings.
        value = json.loads(data.decode(), object_pairs_hook=members, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise TokenInvalid from None
    if not isinstance(value, dict):
        raise TokenInvalid
    return value
