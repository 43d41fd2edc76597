"""JSON Web Tokens (RFC 7519, RFC 8725) to callers."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from metamorphd.clock import Clock
from metamorphd.errors import TokenExpired, TokenInvalid
from metamorphd.models import Caller

ALGORITHM = "HS256"
SHORTEST_SECRET = 32
LONGEST_TOKEN = 8192
LEEWAY_SECONDS = 30
# Nobody rotates a token that lives longer; revoking needs an end too.
LONGEST_LIFE_SECONDS = 366 * 86_400
CACHED_TOKENS = 10_000
LONGEST_EMAIL = 320
VAULT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
PERMISSIONS = frozenset(
    {"read", "write", "delete", "admin", "secrets:read", "secrets:write", "sandbox:create", "sandbox:manage"}
)
# Three base64url parts without padding (RFC 7515, section 2), which PyJWT is lax about.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_USER_ID = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


class TokenVerifier:
    """Verifies tokens signed with one of a few shared secrets of at least 32 bytes, the current one first.

    `issuer` and `audience` must be in the token where they are given. Verified tokens are kept until they expire.
    """

    def __init__(self, *, secrets: Sequence[str], clock: Clock, issuer: str | None, audience: str | None) -> None:
        self._secrets = secrets
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._verified: dict[str, Caller] = {}

    def verify(self, token: str) -> Caller:
        """The caller that a token names. Raises TokenInvalid, TokenExpired."""
        caller = self._verified.get(token)
        if caller is None:
            caller = _caller(self._claims(token), now=self._clock.now())
            if len(self._verified) >= CACHED_TOKENS:
                self._verified.pop(next(iter(self._verified)))
            self._verified[token] = caller
        if caller.expire_time is not None and self._clock.now() >= caller.expire_time + LEEWAY_SECONDS * 1_000_000:
            del self._verified[token]
            raise TokenExpired
        return caller

    def _claims(self, token: str) -> Mapping[str, Any]:
        if len(token) > LONGEST_TOKEN or not _COMPACT.fullmatch(token):
            raise TokenInvalid
        for secret in self._secrets:
            try:
                claims = self._decode(token, secret)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise TokenExpired from None
            # The built-in ones: numbers and nesting beyond what Python's own parser takes.
            except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):
                raise TokenInvalid from None
            _refuse_duplicates(token)
            return claims
        raise TokenInvalid

    def _decode(self, token: str, secret: str) -> Mapping[str, Any]:
        required = ["exp"] + (["iss"] if self._issuer else []) + (["aud"] if self._audience else [])
        return jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
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


def _refuse_duplicates(token: str) -> None:
    """A claim that is given twice may be read differently by whoever minted the token (RFC 7519, section 4)."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenInvalid
        return dict(pairs)

    payload = token.split(".")[1]
    json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), object_pairs_hook=members)


def _caller(claims: Mapping[str, Any], *, now: int) -> Caller:
    vault_id = _text(claims, "vault_id", "vaultId")
    user_id = _text(claims, "user_id", "userId", "sub")
    email = claims.get("email", "")
    expire_time = claims["exp"]
    if not VAULT_ID.fullmatch(vault_id) or not _USER_ID.fullmatch(user_id):
        raise TokenInvalid
    if not isinstance(email, str) or len(email) > LONGEST_EMAIL:
        raise TokenInvalid
    # PyJWT takes a numeric string, and any year.
    if type(expire_time) not in (int, float) or expire_time * 1_000_000 > now + LONGEST_LIFE_SECONDS * 1_000_000:
        raise TokenInvalid
    return Caller(
        vault_id=vault_id,
        user_id=user_id,
        email=email,
        permissions=_permissions(claims),
        operator=claims.get("operator") is True,
        auth_method="jwt",
        expire_time=int(expire_time * 1_000_000),
    )


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """The first of the claims that is there; it must be text."""
    value = next((claims[name] for name in names if name in claims), None)
    if not isinstance(value, str):
        raise TokenInvalid
    return value


def _permissions(claims: Mapping[str, Any]) -> frozenset[str]:
    """`permissions`, an array, or `scope`, separated by spaces (RFC 8693). Unknown ones grant nothing."""
    if "permissions" in claims:
        granted = claims["permissions"]
    else:
        scope = claims.get("scope", "")
        granted = scope.split(" ") if isinstance(scope, str) else None
    if not isinstance(granted, list) or not all(isinstance(permission, str) for permission in granted):
        raise TokenInvalid
    return PERMISSIONS.intersection(granted)
