"""Public keys from a JSON Web Key Set (RFC 7517), fetched over HTTPS."""

import json
import time
from typing import Any

import jwt
import structlog

from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.single_flight import SingleFlight
from metamorphd.errors import IdentityUnavailable, TokenInvalid

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
SHORTEST_RSA_BITS = 2048
# Age at which the keys are fetched again, and age at which they are no longer used if that fails.
FRESH_SECONDS = 300.0
STALE_SECONDS = 3600.0
# Minimum time between two fetches: any client can send an unknown key id.
COOLDOWN_SECONDS = 30.0
HTTP_OK = 200

logger = structlog.get_logger(__name__)


class KeySet:
    """The keys at `url`, by id. Each is for one algorithm; unsupported kinds of keys, also secret ones, are ignored."""

    def __init__(self, *, url: str, http: HttpClient) -> None:
        self._url = url
        self._http = http
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = -STALE_SECONDS
        self._attempted = -COOLDOWN_SECONDS
        self._flight = SingleFlight[None]()

    def known(self, key_id: str, algorithm: str) -> Any | None:
        """Returns a key, or None if the keys must be fetched first. Raises TokenInvalid for another algorithm."""
        key = self._keys.get(key_id)
        if key is None or time.monotonic() - self._fetched > FRESH_SECONDS:
            return None
        return _for(algorithm, key)

    async def key(self, key_id: str, algorithm: str) -> Any:
        """Returns a key, fetched if necessary. Raises TokenInvalid if `algorithm` has none, IdentityUnavailable."""
        await self._refresh(needed=time.monotonic() - self._fetched > STALE_SECONDS)
        return _for(algorithm, self._keys.get(key_id))

    async def _refresh(self, *, needed: bool) -> None:
        """Fetches the keys unless that was just attempted. `needed`: the current keys are too old to be used."""
        if time.monotonic() - self._attempted >= COOLDOWN_SECONDS or self._flight.busy(self._url):
            try:
                await self._flight.do(self._url, self._fetch)
            except IdentityUnavailable:
                if needed:
                    raise
        elif needed:
            raise IdentityUnavailable(retry_delay=COOLDOWN_SECONDS)

    async def _fetch(self) -> None:
        self._attempted = time.monotonic()
        try:
            status, body = await self._http.request("GET", self._url)
            if status != HTTP_OK:
                raise IdentityUnavailable(retry_delay=COOLDOWN_SECONDS)
            self._keys = _keys(body)
        except IdentityUnavailable:
            logger.warning("the key set cannot be fetched", url=self._url)
            raise
        self._fetched = time.monotonic()


def _for(algorithm: str, key: jwt.PyJWK | None) -> Any:
    if key is None:
        raise TokenInvalid("kid is not in the key set")
    if key.algorithm_name != algorithm:
        raise TokenInvalid("alg is not that of the key")
    return key.key


def _keys(body: bytes) -> dict[str, jwt.PyJWK]:
    try:
        entries = json.loads(body)["keys"]
        if not isinstance(entries, list):
            raise TypeError("keys is not an array")
        pairs = [(entry["kid"], _key(entry)) for entry in entries if isinstance(entry, dict) and "kid" in entry]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IdentityUnavailable(retry_delay=COOLDOWN_SECONDS) from exc
    return {key_id: key for key_id, key in pairs if isinstance(key_id, str) and key is not None}


def _key(entry: dict[str, Any]) -> jwt.PyJWK | None:
    """Returns a key, or None if it must not be used to verify signatures."""
    if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = jwt.PyJWK.from_dict(entry)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None
    if key.algorithm_name not in ALGORITHMS or getattr(key.key, "key_size", SHORTEST_RSA_BITS) < _shortest(key):
        return None
    return key


def _shortest(key: jwt.PyJWK) -> int:
    return SHORTEST_RSA_BITS if key.algorithm_name == "RS256" else 0
