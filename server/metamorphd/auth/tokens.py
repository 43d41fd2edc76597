"""Verifies bearer tokens: JSON Web Tokens (RFC 7519, RFC 8725) with our keys, others with the Emblem API."""

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Self

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from metamorphd.auth.claims import LEEWAY, LONGEST_TOKEN, caller_of, times_of, token_id_of
from metamorphd.auth.decoding import Token, decode
from metamorphd.auth.emblem import ACCEPTED_SECONDS, EmblemApi
from metamorphd.auth.jwks import ALGORITHMS, Key, KeySet
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.verified_tokens import Verified, VerifiedTokens
from metamorphd.clock import Clock
from metamorphd.errors import TokenInvalid
from metamorphd.models.caller import Caller

# The only algorithm accepted for a shared secret.
SHARED = "HS256"
CACHED_TOKENS = 10_000
UNKNOWN_SIGNATURE = "the signature is not that of an accepted key"
# Syntax of a Bearer token (RFC 6750, section 2.1).
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# What PyJWT finds wrong with claims that it checks itself.
_CLAIM_FAULTS: dict[type[Exception], str] = {
    jwt.InvalidIssuerError: "iss is another issuer",
    jwt.InvalidAudienceError: "aud is another audience",
    InvalidSubjectError: "sub is not text",
    InvalidJTIError: "jti is not text",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """A token that cannot be verified without a request to another server. `verify` makes it, for a caller's network.

    Nothing is known of a `stranger`, which needs a request of its own: so those that a network may send are limited.
    The request of a `foreign` token sends it to another server.
    """

    verify: Callable[[str], Coroutine[Any, Any, Caller]]
    stranger: bool
    foreign: bool


class TokenVerifier:
    """Verifies tokens, and caches the callers, never past the token's expiry, nor past the end of its key.

    An async context manager: while it is entered, the key set is kept fresh.

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
        self._verified = VerifiedTokens(size=CACHED_TOKENS)

    async def __aenter__(self) -> Self:
        if self._key_set is not None:
            await self._key_set.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        """Ends the requests to other servers."""
        if self._key_set is not None:
            await self._key_set.__aexit__(*details)

    def verify(self, text: str) -> Caller | Pending:
        """Returns the caller that a token names, or a Pending if a request to another server is needed first.

        Raises TokenInvalid, TokenExpired, TokenRevoked; the Pending also raises IdentityUnavailable.
        """
        known = self._verified.get(text)
        if known is not None and self._clock.now() < known.until and self._counts(known.caller):
            return self._admit(known.caller)
        if len(text) > LONGEST_TOKEN:
            raise TokenInvalid(f"it is longer than {LONGEST_TOKEN} bytes")
        if not _BEARER.fullmatch(text):
            raise TokenInvalid("a character is not one of a bearer token")
        token = decode(text)
        if self._foreign(token):
            vault_id = None if known is None else known.caller.vault_id

            def introspect(network: str) -> Coroutine[Any, Any, Caller]:
                return self._introspect(text, token, network, vault_id)

            return Pending(introspect, stranger=known is None, foreign=True)
        if token is None:
            raise TokenInvalid("it is not a JSON Web Token")
        algorithm, key_id = token.header.get("alg"), token.header.get("kid")
        if algorithm == SHARED:
            return self._by_secret(token)
        key_set = self._key_set
        if key_set is None or algorithm not in ALGORITHMS:
            raise TokenInvalid("alg is not accepted")
        if not isinstance(key_id, str):
            raise TokenInvalid("kid is missing, or not text")
        keys = key_set.known(key_id, algorithm)
        if keys is not None:
            return self._by_key(key_set, token, keys)

        async def fetch(_network: str) -> Caller:
            return self._by_key(key_set, token, await key_set.fetched(key_id, algorithm))

        return Pending(fetch, stranger=False, foreign=False)

    def _counts(self, caller: Caller) -> bool:
        return caller.key is None or (self._key_set is not None and self._key_set.counts(caller.key))

    def _foreign(self, token: Token | None) -> bool:
        if token is None or (not self._secrets and self._key_set is None):
            return self._emblem is not None
        return self._emblem is not None and bool(self._issuer) and token.claims.get("iss", self._issuer) != self._issuer

    async def _introspect(self, text: str, token: Token | None, network: str, vault_id: str | None) -> Caller:
        if self._emblem is None:
            raise TokenInvalid("it is not one of this server")
        try:
            caller = await self._emblem.caller(text, network=network, vault_id=vault_id)
        except TokenInvalid:
            self._verified.forget(text)
            raise
        now = self._clock.now()
        if token is not None:
            # The API has verified the whole token, so its other claims can be trusted too. They end it, and by `jti`
            # and `iat` it is revoked, whether or not it expires.
            issue_time, expire_time = times_of(token.claims, now=now)
            caller = replace(caller, token_id=token_id_of(token.claims), issue_time=issue_time, expire_time=expire_time)
        return self._keep(text, caller, longest=now + int(ACCEPTED_SECONDS * 1e6))

    def _by_secret(self, token: Token) -> Caller:
        for secret in self._secrets:
            claims = self._claims(token, secret, SHARED)
            if claims is not None:
                return self._keep(token.text, self._caller(claims, operators=True, key=None), longest=None)
        raise TokenInvalid(UNKNOWN_SIGNATURE)

    def _by_key(self, key_set: KeySet, token: Token, keys: Sequence[Key]) -> Caller:
        for key in keys:
            claims = self._claims(token, key.public, key.algorithm)
            if claims is not None:
                caller = self._caller(claims, operators=key_set.operators, key=key.digest)
                if not key_set.serves(caller.vault_id):
                    raise TokenInvalid("vault_id is not one that the key set may name")
                return self._keep(token.text, caller, longest=None)
        raise TokenInvalid(UNKNOWN_SIGNATURE)

    def _caller(self, claims: Mapping[str, Any], *, operators: bool, key: str | None) -> Caller:
        return caller_of(claims, permissions=self._permissions, operators=operators, key=key, now=self._clock.now())

    def _keep(self, text: str, caller: Caller, *, longest: int | None) -> Caller:
        ends = [] if caller.expire_time is None else [caller.expire_time + LEEWAY]
        until = min(ends + ([] if longest is None else [longest]))
        self._verified.keep(text, Verified(caller, until))
        return self._admit(caller)

    def _admit(self, caller: Caller) -> Caller:
        self._revoked_tokens.check(caller)
        return caller

    def _claims(self, token: Token, key: Any, algorithm: str) -> Mapping[str, Any] | None:
        """Returns the claims, or None if the key did not sign them. Raises TokenInvalid."""
        try:
            return self._verified_claims(token, key, algorithm)
        except jwt.InvalidSignatureError:
            return None
        except jwt.MissingRequiredClaimError as exc:
            raise TokenInvalid(f"{exc.claim} is missing") from None
        # The built-in ones: numbers too large for Python's own conversions.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as exc:
            raise TokenInvalid(_CLAIM_FAULTS.get(type(exc), "it is malformed")) from None

    def _verified_claims(self, token: Token, key: Any, algorithm: str) -> Mapping[str, Any]:
        return jwt.decode(
            token.text,
            key,
            algorithms=[algorithm],
            issuer=self._issuer,
            audience=self._audience,
            options={
                "require": (["iss"] if self._issuer else []) + (["aud"] if self._audience else []),
                "verify_aud": self._audience is not None,
                "verify_iss": self._issuer is not None,
                # `caller_of` does, by our clock.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )


class OwnTokens:
    """Verifies the tokens that are verified here, and sends none to another server. Operators have no others."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    def verify(self, text: str) -> Caller | Pending:
        """Does what the verifier does. Raises TokenInvalid for foreign tokens."""
        verified = self._verifier.verify(text)
        if isinstance(verified, Pending) and verified.foreign:
            raise TokenInvalid("it is not one of this server")
        return verified
