"""Public keys from a JSON Web Key Set (RFC 7517), fetched over HTTPS."""

import asyncio
import contextlib
import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Self

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.single_flight import SingleFlight
from metamorphd.errors import IdentityUnavailable, TokenInvalid

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
SHORTEST_RSA_BITS = 2048
# How often the keys are fetched again, and how soon if that failed.
FRESH_SECONDS = 300.0
RETRY_SECONDS = 30.0
# Age at which the keys are no longer used, because they could not be fetched again.
STALE_SECONDS = 3600.0
# Minimum time between two fetches: any client can send an unknown key id.
COOLDOWN_SECONDS = 5.0
HTTP_OK = 200

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for one algorithm. `digest` is of its id, its algorithm and the key itself."""

    algorithm: str
    public: Any
    digest: str


class KeySet:
    """The keys at `url`, by id. Each is for one algorithm; unsupported kinds of keys, also secret ones, are ignored.

    An async context manager: while it is entered, the keys are fetched again regularly, and those in hand are used
    meanwhile. `revoked_tokens` ends the tokens of keys that leave the set. Its tokens may name the `vaults`, or all,
    and operators only with `operators`.
    """

    def __init__(
        self,
        *,
        url: str,
        http: HttpClient,
        revoked_tokens: RevokedTokens,
        vaults: re.Pattern[str] | None,
        operators: bool,
    ) -> None:
        self.operators = operators
        self._vaults = vaults
        self._url = url
        self._http = http
        self._revoked_tokens = revoked_tokens
        self._keys: dict[str, list[Key]] = {}
        self._digests: frozenset[str] = frozenset()
        self._fetched = self._began = float("-inf")
        self._failed = False
        self._flight = SingleFlight[None]()
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._refreshing = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends every fetch."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._flight.close()

    def serves(self, vault_id: str) -> bool:
        """Returns whether a token of these keys may name a vault."""
        return self._vaults is None or self._vaults.fullmatch(vault_id) is not None

    def counts(self, digest: str) -> bool:
        """Returns whether a key is in the set, and the set not too old to be used."""
        return digest in self._digests and not self._stale()

    def known(self, key_id: str, algorithm: str) -> list[Key] | None:
        """Returns the keys of an id, or None if the set must be fetched first. Raises TokenInvalid for no `algorithm`.

        Several keys may have one id (RFC 7517, section 4.5).
        """
        keys = None if self._stale() else self._keys.get(key_id)
        return None if keys is None else _for(algorithm, keys)

    async def fetched(self, key_id: str, algorithm: str) -> list[Key]:
        """Returns the keys of an id from a set that is fetched now, or before if it has them.

        Raises TokenInvalid if a set that was asked for after this call began has none, and IdentityUnavailable. An
        earlier set proves nothing, as the key may be newer: then this waits for `COOLDOWN_SECONDS` at most, with all
        others, so that whoever sends unknown key ids keeps nobody from using a new key.
        """
        asked = time.monotonic()
        while (keys := self.known(key_id, algorithm)) is None:
            if self._began >= asked:
                raise TokenInvalid("kid is not in the key set")
            await self._flight.do(self._url, self._fetch)
        return keys

    def _stale(self) -> bool:
        return time.monotonic() - self._fetched > STALE_SECONDS

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS if self._failed else FRESH_SECONDS)
            with contextlib.suppress(IdentityUnavailable):
                await self._flight.do(self._url, self._fetch)

    async def _fetch(self) -> None:
        wait = self._began + COOLDOWN_SECONDS - time.monotonic()
        if wait > 0 and self._failed:
            raise IdentityUnavailable(retry_delay=wait)
        await asyncio.sleep(max(wait, 0))
        self._began = time.monotonic()
        try:
            status, body = await self._http.request("GET", self._url)
            if status != HTTP_OK:
                raise IdentityUnavailable(retry_delay=COOLDOWN_SECONDS)
            keys = _keys(body)
        except IdentityUnavailable:
            self._failed = True
            logger.warning("the key set cannot be fetched", url=self._url)
            raise
        self._failed = False
        self._fetched, self._keys = time.monotonic(), keys
        self._digests = frozenset(key.digest for same_id in keys.values() for key in same_id)
        self._revoked_tokens.trust(self._digests)


def _for(algorithm: str, keys: list[Key]) -> list[Key]:
    suited = [key for key in keys if key.algorithm == algorithm]
    if not suited:
        raise TokenInvalid("alg is not that of the key")
    return suited


def _keys(body: bytes) -> dict[str, list[Key]]:
    try:
        entries = json.loads(body)["keys"]
        if not isinstance(entries, list):
            raise TypeError("keys is not an array")
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IdentityUnavailable(retry_delay=COOLDOWN_SECONDS) from exc
    keys: dict[str, list[Key]] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(key_id := entry.get("kid"), str):
            key = _key(key_id, entry)
            if key is not None:
                keys.setdefault(key_id, []).append(key)
    return keys


def _key(key_id: str, entry: dict[str, Any]) -> Key | None:
    """Returns a key, or None if it must not be used to verify signatures."""
    # `d` is the private part: whoever can read the set can sign with it.
    if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct" or "d" in entry:
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK.from_dict(entry)
        if key.algorithm_name not in ALGORITHMS or getattr(key.key, "key_size", SHORTEST_RSA_BITS) < _shortest(key):
            return None
        public = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # One broken key must not take the others with it. PyJWT raises many kinds, for `none` even NotImplementedError.
    except Exception:
        return None
    parts = (key_id.encode(errors="replace"), key.algorithm_name.encode(), public)
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4) + part for part in parts))
    return Key(key.algorithm_name, key.key, digest.hexdigest())


def _shortest(key: jwt.PyJWK) -> int:
    return SHORTEST_RSA_BITS if key.algorithm_name == "RS256" else 0
