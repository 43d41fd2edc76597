"""Bearer tokens to callers: JSON Web Tokens (RFC 7519, RFC 8725) by our keys, others by the Emblem API's word."""

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
from metamorphd.auth.revoked_tokens import Revocations
from metamorphd.clock import Clock
from metamorphd.errors import TokenExpired, TokenInvalid, TokenRevoked
from metamorphd.models.caller import Caller

# The one algorithm of a shared secret.
SHARED = "HS256"
LONGEST_TOKEN = 8192
LEEWAY_SECONDS = 30
CACHED_TOKENS = 10_000
# What a Bearer token may look like (RFC 6750, section 2.1).
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# A JWT has three parts; another kind says what it is (RFC 8725, section 3.11).
_PARTS = 3
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT as it says of itself, nothing of it verified."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verified:
    """A caller, and until when that may be believed, in microseconds since the epoch."""

    caller: Caller
    until: int


class TokenVerifier:
    """Verifies tokens; what it has verified it keeps, never past the token's expiry.

    `permissions` are those that a token can grant. `secrets` of at least 32 bytes, the current one first. `issuer` and
    `audience` must be in the token where they are given. `emblem` is asked about tokens that are not ours: opaque ones,
    those of another issuer than `issuer`, and all when there is neither secret nor key set. What is ours to verify and
    fails, fails.
    """

    def __init__(
        self,
        *,
        permissions: AbstractSet[str],
        secrets: Sequence[str],
        key_set: KeySet | None,
        emblem: EmblemApi | None,
        revocations: Revocations,
        clock: Clock,
        issuer: str | None,
        audience: str | None,
    ) -> None:
        self._permissions = permissions
        self._secrets = secrets
        self._key_set = key_set
        self._emblem = emblem
        self._revocations = revocations
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._verified: dict[str, Verified] = {}

    def verify(self, text: str) -> Caller | Coroutine[Any, Any, Caller]:
        """The caller that a token names; a coroutine of it where somebody else must be asked first.

        Raises TokenInvalid, TokenExpired, TokenRevoked; the coroutine IdentityUnavailable too.
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
            return self._ask(text, token)
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

    async def _ask(self, text: str, token: Token | None) -> Caller:
        if self._emblem is None:
            raise TokenInvalid
        caller = await self._emblem.caller(text)
        now = self._clock.now()
        if token is not None and "exp" in token.claims:
            # The API has vouched for the whole of it.
            named = {"vault_id": caller.vault_id, "vaultId": caller.vault_id, "user_id": "unused"}
            said = caller_of({**token.claims, **named}, permissions=self._permissions, now=now)
            caller = replace(caller, token_id=said.token_id, issue_time=said.issue_time, expire_time=said.expire_time)
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
        if self._revocations.revoked(caller):
            raise TokenRevoked
        return caller

    def _decode(self, token: Token, keys: Sequence[Any], algorithm: str) -> Mapping[str, Any]:
        """The claims, if one of the keys has signed them with `algorithm`."""
        for key in keys:
            try:
                return self._verified_claims(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise TokenExpired from None
            # The built-in ones: numbers beyond what Python's own conversions take.
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
    """A JWT, or None for a token of another kind. Raises TokenInvalid for what looks like a JWT and is none."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        return None
    header, claims, _ = (_decoded(part) for part in parts)
    token = Token(text, _object(header), _object(claims))
    kind = token.header.get("typ", "JWT")
    if not isinstance(token.header.get("alg"), str):
        raise TokenInvalid
    # `crit` names what must be understood (RFC 7515, section 4.1.11); we understand nothing of the kind.
    if not isinstance(kind, str) or kind.lower() not in _TYPES or "crit" in token.header or "b64" in token.header:
        raise TokenInvalid
    return token


def _decoded(part: str) -> bytes:
    """Base64url without padding (RFC 7515, section 2), in the one spelling that its bytes have."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid from None
    if not data or base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise TokenInvalid
    return data


def _object(data: bytes) -> Mapping[str, Any]:
    """A JSON object. A member that is given twice may be read differently by whoever minted the token."""

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
