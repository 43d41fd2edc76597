"""Converts the claims of a verified token (RFC 7519, section 4) to a Caller.

Stricter than PyJWT, which accepts the year 10,000, text in place of numbers, and invisible characters. A refusal names
the claim and what is wrong with it, never its value.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from metamorphd.errors import TokenExpired, TokenInvalid
from metamorphd.models.caller import Caller

# How far the clocks of issuers may differ from ours (RFC 7519, sections 4.1.4 and 4.1.5).
LEEWAY_SECONDS = 30
LEEWAY = LEEWAY_SECONDS * 1_000_000
# Longer-lived tokens don't get rotated, and their revocations could not expire either.
LONGEST_LIFE_SECONDS = 366 * 86_400
# The end of the year 9999. The bound also keeps infinity and thousand-digit numbers out of the arithmetic.
LATEST_SECONDS = 253_402_300_799
LONGEST_TOKEN = 8192
LONGEST_TEXT = {"user": 256, "email": 320, "jti": 256}
VAULT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
VAULT_CLAIMS = ("vault_id", "vaultId")
USER_CLAIMS = ("user_id", "userId", "sub")
# Why a token has expired, which may also happen while it is in use.
EXPIRED = "exp is past"


def caller_of(
    claims: Mapping[str, Any], *, permissions: AbstractSet[str], operators: bool, key: str | None, now: int
) -> Caller:
    """Returns the caller named by the claims; `exp` is required. `permissions` are those that a token can grant.

    The caller is an operator only if the token may name `operators`. `key` is the caller's.
    Raises TokenInvalid, TokenExpired.
    """
    issue_time, expire_time = times_of(claims, now=now)
    if expire_time is None:
        raise TokenInvalid("exp is missing")
    return Caller(
        vault_id=vault_id_of(claims),
        user_id=user_id_of(claims),
        email=email_of(claims),
        permissions=permissions_of(claims, known=permissions),
        operator=operators and claims.get("operator") is True,
        auth_method="jwt",
        token_id=token_id_of(claims),
        issue_time=issue_time,
        expire_time=expire_time,
        key=key,
    )


def times_of(claims: Mapping[str, Any], *, now: int) -> tuple[int | None, int | None]:
    """Returns `iat` and `exp`, in microseconds. `LEEWAY_SECONDS` are allowed for at each bound.

    Raises TokenInvalid, also for a token that is not valid yet, and TokenExpired.
    """
    issue_time, expire_time, begin_time = (_time(claims, name) for name in ("iat", "exp", "nbf"))
    if issue_time is not None and issue_time > now + LEEWAY:
        raise TokenInvalid("iat is ahead")
    if begin_time is not None and begin_time > now + LEEWAY:
        raise TokenInvalid("nbf is ahead")
    if expire_time is not None:
        if expire_time > now + LONGEST_LIFE_SECONDS * 1_000_000 + LEEWAY:
            raise TokenInvalid(f"exp is more than {LONGEST_LIFE_SECONDS // 86_400} days ahead")
        if issue_time is not None and issue_time > expire_time:
            raise TokenInvalid("iat is after exp")
        if now >= expire_time + LEEWAY:
            raise TokenExpired(EXPIRED)
    return issue_time, expire_time


def vault_id_of(claims: Mapping[str, Any]) -> str:
    """Returns the vault id. Raises TokenInvalid if the two claims for it disagree."""
    names = [name for name in VAULT_CLAIMS if name in claims]
    if not names:
        raise TokenInvalid("vault_id is missing")
    for name in names:
        if not isinstance(claims[name], str):
            raise TokenInvalid(f"{name} is not text")
        if not VAULT_ID.fullmatch(claims[name]):
            raise TokenInvalid(f"{name} is not a vault ID")
    if len({claims[name] for name in names}) > 1:
        raise TokenInvalid(f"{' and '.join(names)} differ")
    return str(claims[names[0]])


def user_id_of(claims: Mapping[str, Any]) -> str:
    """Returns the user id, from the first user claim that is present."""
    return _text(claims, next((name for name in USER_CLAIMS if name in claims), "sub"), kind="user")


def email_of(claims: Mapping[str, Any]) -> str:
    """Returns the email address, or empty text."""
    return _text(claims, "email", kind="email") if claims.get("email", "") != "" else ""


def token_id_of(claims: Mapping[str, Any]) -> str | None:
    """Returns the token's id, `jti`, or None."""
    return _text(claims, "jti", kind="jti") if "jti" in claims else None


def permissions_of(claims: Mapping[str, Any], *, known: AbstractSet[str]) -> frozenset[str]:
    """Returns the `known` permissions in `permissions` (an array) or else in `scope` (space-separated, RFC 8693)."""
    if "permissions" not in claims:
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise TokenInvalid("scope is not text")
        return frozenset(scope.split(" ")) & known
    granted = claims["permissions"]
    if not isinstance(granted, list) or not all(isinstance(permission, str) for permission in granted):
        raise TokenInvalid("permissions is not an array of text")
    return frozenset(granted) & known


def _text(claims: Mapping[str, Any], name: str, *, kind: str) -> str:
    """Returns a claim's text. Raises TokenInvalid for unprintable characters, lone surrogates and blank text."""
    if name not in claims:
        raise TokenInvalid(f"{name} is missing")
    value = claims[name]
    if not isinstance(value, str):
        raise TokenInvalid(f"{name} is not text")
    if not value.strip():
        raise TokenInvalid(f"{name} is blank")
    if len(value) > LONGEST_TEXT[kind]:
        raise TokenInvalid(f"{name} has more than {LONGEST_TEXT[kind]} characters")
    if not value.isprintable():
        raise TokenInvalid(f"{name} has a character that is not printable")
    return value


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    """Returns a NumericDate (RFC 7519, section 2) in microseconds. Raises TokenInvalid for text, unlike PyJWT."""
    if name not in claims:
        return None
    value: Any = claims[name]
    if type(value) not in (int, float):
        raise TokenInvalid(f"{name} is not a number")
    if not 0 <= value <= LATEST_SECONDS:
        raise TokenInvalid(f"{name} is not a time between 1970 and 9999")
    return int(value * 1_000_000)
