"""Authentication by the Emblem API, for tokens that this server cannot verify itself."""

import hashlib
import json
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import structlog

from metamorphd.auth.claims import email_of, permissions_of, user_id_of, vault_id_of
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.single_flight import SingleFlight
from metamorphd.errors import IdentityUnavailable, TokenInvalid
from metamorphd.models.caller import Caller

ACCEPTED_SECONDS = 60.0
REFUSED_SECONDS = 10.0
CACHED_REFUSALS = 10_000
CALLS_PER_SECOND = 50
# Circuit breaker: after this many consecutive failures no requests are sent for a while, then one is let through.
FAILURES = 5
OPEN_SECONDS = 10.0
HTTP_SUCCESS = range(200, 300)
HTTP_SERVER_ERROR = 500
HTTP_TOO_MANY_REQUESTS = 429

logger = structlog.get_logger(__name__)


class EmblemApi:
    """Client of `POST {url}/vault/info`, which takes the caller's own token.

    Sends one request per token at a time, and a limited number per second. `permissions` are those that the API can
    grant.
    """

    def __init__(self, *, url: str, http: HttpClient, permissions: AbstractSet[str]) -> None:
        self._url = f"{url.rstrip('/')}/vault/info"
        self._http = http
        self._permissions = permissions
        self._flight = SingleFlight[Caller]()
        # By digest: ten thousand tokens of eight kilobytes can be sent without an account.
        self._refused: dict[bytes, tuple[float, str]] = {}
        self._failures = 0
        self._closed_at = 0.0
        self._second = 0
        self._calls = 0

    async def caller(self, token: str) -> Caller:
        """Returns the caller that the API identifies by the token. Raises TokenInvalid, IdentityUnavailable."""
        until, why = self._refused.get(_digest(token), (0.0, ""))
        if until > time.monotonic():
            raise TokenInvalid(why)
        return await self._flight.do(token, lambda: self._fetch(token))

    async def _fetch(self, token: str) -> Caller:
        self._admit()
        try:
            status, body = await self._http.request("POST", self._url, bearer=token)
            if status >= HTTP_SERVER_ERROR or status == HTTP_TOO_MANY_REQUESTS:
                raise IdentityUnavailable(retry_delay=1.0)
        except IdentityUnavailable:
            self._fail()
            raise
        self._failures, self._closed_at = 0, 0.0
        try:
            if status not in HTTP_SUCCESS:
                raise TokenInvalid(f"the Emblem API answered {status}")
            return _caller(body, self._permissions)
        except TokenInvalid as refusal:
            self._refuse(token, refusal.why)
            raise

    def _admit(self) -> None:
        now = time.monotonic()
        if now < self._closed_at:
            raise IdentityUnavailable(retry_delay=self._closed_at - now)
        if self._failures >= FAILURES:
            # This request probes the API; others are refused until its outcome is known.
            self._closed_at = now + OPEN_SECONDS
        if int(now) != self._second:
            self._second, self._calls = int(now), 0
        self._calls += 1
        if self._calls > CALLS_PER_SECOND:
            raise IdentityUnavailable(retry_delay=1.0)

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._closed_at = time.monotonic() + OPEN_SECONDS
            logger.warning("the Emblem API is unavailable", url=self._url, failures=self._failures)

    def _refuse(self, token: str, why: str) -> None:
        if len(self._refused) >= CACHED_REFUSALS:
            self._refused.pop(next(iter(self._refused)))
        self._refused[_digest(token)] = time.monotonic() + REFUSED_SECONDS, why


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _caller(body: bytes, permissions: AbstractSet[str]) -> Caller:
    try:
        response: Mapping[str, Any] = json.loads(body)
    except (ValueError, RecursionError):
        raise TokenInvalid("the Emblem API's answer is not JSON") from None
    if not isinstance(response, dict):
        raise TokenInvalid("the Emblem API's answer is not a JSON object")
    given = {name: value for name, value in response.items() if value is not None}
    try:
        return Caller(
            vault_id=vault_id_of({"vaultId": given["vaultId"]} if "vaultId" in given else {}),
            user_id=user_id_of({"userId": given["userId"]}) if "userId" in given else "",
            email=email_of(given),
            permissions=permissions_of({"permissions": given.get("permissions") or []}, known=permissions),
            operator=False,
            auth_method="emblem",
            token_id=None,
            issue_time=None,
            expire_time=None,
        )
    except TokenInvalid as refusal:
        raise TokenInvalid(f"in the Emblem API's answer, {refusal.why}") from None
