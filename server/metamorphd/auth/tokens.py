"""JSON Web Tokens (RFC 7519, RFC 8725) to callers."""

import re
from collections.abc import Mapping
from typing import Any

import jwt

from metamorphd.clock import Clock
from metamorphd.errors import TokenExpired, TokenInvalid
from metamorphd.models import Caller

ALGORITHM = "HS256"
SHORTEST_SECRET = 32
LONGEST_TOKEN = 8192
LEEWAY_SECONDS = 30
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
    """Verifies tokens signed with one shared secret of at least 32 bytes. Verified ones are kept until they expire."""

    def __init__(self, *, secret: str, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._verified: dict[str, Caller] = {}

    def verify(self, token: str) -> Caller:
        """The caller that a token names. Raises TokenInvalid, TokenExpired."""
        caller = self._verified.get(token)
        if caller is None:
            caller = self._decode(token)
            if len(self._verified) >= CACHED_TOKENS:
                self._verified.pop(next(iter(self._verified)))
            self._verified[token] = caller
        if caller.expire_time is not None and self._clock.now() >= caller.expire_time + LEEWAY_SECONDS * 1_000_000:
            del self._verified[token]
            raise TokenExpired
        return caller

    def _decode(self, token: str) -> Caller:
        if len(token) > LONGEST_TOKEN or not _COMPACT.fullmatch(token):
            raise TokenInvalid
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except jwt.InvalidTokenError:
            raise TokenInvalid from None
        return _caller(claims)


def _caller(claims: Mapping[str, Any]) -> Caller:
    vault_id = _text(claims, "vault_id", "vaultId")
    user_id = _text(claims, "user_id", "userId", "sub")
    email = claims.get("email", "")
    expire_time = claims["exp"]
    if not VAULT_ID.fullmatch(vault_id) or not _USER_ID.fullmatch(user_id):
        raise TokenInvalid
    if not isinstance(email, str) or len(email) > LONGEST_EMAIL:
        raise TokenInvalid
    # PyJWT takes a numeric string, and any year.
    if type(expire_time) not in (int, float) or not 0 < expire_time < 2**40:
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
