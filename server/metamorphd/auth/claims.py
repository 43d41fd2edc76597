"""Converts the claims of a verified token (RFC 7519, section 4) to a Caller.

Stricter than PyJWT, which accepts the year 10,000, text in place of numbers, and invisible characters.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from metamorphd.errors import TokenInvalid
from metamorphd.models.caller import Caller

# Longer-lived tokens don't get rotated, and their revocations could not expire either.
LONGEST_LIFE_SECONDS = 366 * 86_400
# The end of the year 9999. The bound also keeps infinity and thousand-digit numbers out of the arithmetic.
LATEST_SECONDS = 253_402_300_799
LONGEST_TEXT = {"user": 256, "email": 320, "jti": 256}
VAULT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
VAULT_CLAIMS = ("vault_id", "vaultId")
USER_CLAIMS = ("user_id", "userId", "sub")


def caller_of(claims: Mapping[str, Any], *, permissions: AbstractSet[str], now: int) -> Caller:
    """Returns the caller named by the claims; `exp` is required. `permissions` are those that a token can grant.

    Raises TokenInvalid.
    """
    expire_time = _time(claims, "exp")
    issue_time = _time(claims, "iat")
    # PyJWT has compared it, but accepts text and `true` as a time.
    _time(claims, "nbf")
    if expire_time is None or expire_time > now + LONGEST_LIFE_SECONDS * 1_000_000:
        raise TokenInvalid
    if issue_time is not None and issue_time > expire_time:
        raise TokenInvalid
    return Caller(
        vault_id=vault_id_of(claims),
        user_id=user_id_of(claims),
        email=email_of(claims),
        permissions=permissions_of(claims, known=permissions),
        operator=claims.get("operator") is True,
        auth_method="jwt",
        token_id=_text(claims, "jti", kind="jti") if "jti" in claims else None,
        issue_time=issue_time,
        expire_time=expire_time,
    )


def vault_id_of(claims: Mapping[str, Any]) -> str:
    """Returns the vault id. Raises TokenInvalid if the two claims for it disagree."""
    values = {claims[name] for name in VAULT_CLAIMS if name in claims and isinstance(claims[name], str)}
    if len(values) != 1 or any(not isinstance(claims.get(name, ""), str) for name in VAULT_CLAIMS):
        raise TokenInvalid
    (vault_id,) = values
    if not VAULT_ID.fullmatch(vault_id):
        raise TokenInvalid
    return str(vault_id)


def user_id_of(claims: Mapping[str, Any]) -> str:
    """Returns the user id, from the first user claim that is present."""
    return _text(claims, next((name for name in USER_CLAIMS if name in claims), "sub"), kind="user")


def email_of(claims: Mapping[str, Any]) -> str:
    """Returns the email address, or empty text."""
    return _text(claims, "email", kind="email") if claims.get("email", "") != "" else ""


def permissions_of(claims: Mapping[str, Any], *, known: AbstractSet[str]) -> frozenset[str]:
    """Returns the `known` permissions in `permissions` (an array) or else in `scope` (space-separated, RFC 8693)."""
    if "permissions" in claims:
        granted = claims["permissions"]
    else:
        scope = claims.get("scope", "")
        granted = scope.split(" ") if isinstance(scope, str) else None
    if not isinstance(granted, list) or not all(isinstance(permission, str) for permission in granted):
        raise TokenInvalid
    return frozenset(granted) & known


def _text(claims: Mapping[str, Any], name: str, *, kind: str) -> str:
    """Returns a claim's text. Raises TokenInvalid for unprintable characters, lone surrogates and blank text."""
    value = claims.get(name)
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > LONGEST_TEXT[kind]:
        raise TokenInvalid
    return value


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    """Returns a NumericDate (RFC 7519, section 2) in microseconds. Raises TokenInvalid for text, unlike PyJWT."""
    if name not in claims:
        return None
    value: Any = claims[name]
    if type(value) not in (int, float) or not 0 <= value <= LATEST_SECONDS:
        raise TokenInvalid
    return int(value * 1_000_000)
