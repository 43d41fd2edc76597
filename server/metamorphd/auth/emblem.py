"""Authentication by the Emblem API, for tokens that this server cannot verify itself."""

import asyncio
import hashlib
import ipaddress
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from metamorphd.auth.claims import email_of, permissions_of, user_id_of, vault_id_of
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.single_flight import SingleFlight
from metamorphd.errors import IdentityUnavailable, TokenInvalid
from metamorphd.models.caller import Caller

ACCEPTED_SECONDS = 60.0
REFUSED_SECONDS = 10.0
CACHED_DIGESTS = 10_000
# Requests for strangers' tokens from one network.
CALLS_PER_SECOND = 50
# Requests in flight: for strangers' tokens, of which one network may have a part, and for those that were accepted
# before, of which one vault may. When all are taken, those with the most make room for others.
IN_FLIGHT = 200
IN_FLIGHT_EACH = 20
# How long those that were accepted before wait for one of their vault's places, which are free again within
# http_client.TIMEOUT_SECONDS: what is known of many callers may lapse at the same moment.
WAIT_SECONDS = 2.0
# Circuit breaker of a token: after this many consecutive failures it is not sent for a while, and then once.
FAILURES = 5
OPEN_SECONDS = 10.0
HTTP_SUCCESS = range(200, 300)
HTTP_SERVER_ERROR = 500
HTTP_TOO_MANY_REQUESTS = 429

T = TypeVar("T")

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failing:
    """A token that made the API fail so many times, one after the other, and is not sent until `until`."""

    failures: int
    until: float


NOT_FAILING = Failing(0, 0.0)


class EmblemApi:
    """Client of `POST {url}/vault/info`, which takes the caller's own token.

    Sends one request per token at a time. A token that makes the API fail is not sent for a while; others are, since
    anyone can send such tokens. Strangers' tokens, of which nothing is known, are limited for each network, and those
    that were accepted before for each vault, so that neither takes the other's place. `permissions` are those that the
    API can grant.
    """

    def __init__(self, *, url: str, http: HttpClient, permissions: AbstractSet[str]) -> None:
        self._url = f"{url.rstrip('/')}/vault/info"
        self._http = http
        self._permissions = permissions
        self._flight = SingleFlight[Caller]()
        # By digest: ten thousand tokens of eight kilobytes can be sent without an account.
        self._refused: dict[bytes, tuple[float, str]] = {}
        self._failing: dict[bytes, Failing] = {}
        self._strangers = Places(total=IN_FLIGHT, each=IN_FLIGHT_EACH)
        self._known = Places(total=IN_FLIGHT, each=IN_FLIGHT_EACH)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._second = 0
        self._calls: dict[str, int] = {}
        self._warned = float("-inf")

    async def caller(self, token: str, *, network: str, vault_id: str | None) -> Caller:
        """Returns the caller that the API identifies by the token. Raises TokenInvalid, IdentityUnavailable.

        `vault_id` is that of a token that was accepted before, or None for a stranger's, who is in `network`.
        """
        until, why = self._refused.get(_digest(token), (0.0, ""))
        if until > time.monotonic():
            raise TokenInvalid(why)
        return await self._flight.do(token, lambda: self._fetch(token, network, vault_id))

    async def _fetch(self, token: str, network: str, vault_id: str | None) -> Caller:
        digest = _digest(token)
        failing = self._failing.get(digest, NOT_FAILING)
        now = time.monotonic()
        if now < failing.until:
            raise IdentityUnavailable(retry_delay=failing.until - now)
        async with self._place(network, vault_id, now):
            try:
                status, body = await self._http.request("POST", self._url, bearer=token)
                if status >= HTTP_SERVER_ERROR or status == HTTP_TOO_MANY_REQUESTS:
                    raise IdentityUnavailable(retry_delay=1.0)
            except IdentityUnavailable:
                self._fail(digest, failing.failures + 1)
                raise
        self._failing.pop(digest, None)
        try:
            if status not in HTTP_SUCCESS:
                raise TokenInvalid(f"the Emblem API answered {status}")
            return _caller(body, self._permissions)
        except TokenInvalid as refusal:
            _put(self._refused, digest, (time.monotonic() + REFUSED_SECONDS, refusal.why))
            raise

    def _place(self, network: str, vault_id: str | None, now: float) -> AbstractAsyncContextManager[None]:
        if vault_id is not None:
            return self._known_place(vault_id)
        if int(now) != self._second:
            self._second, self._calls = int(now), {}
        calls = self._calls.get(network, 0)
        if calls >= CALLS_PER_SECOND:
            raise IdentityUnavailable(retry_delay=1.0)
        self._calls[network] = calls + 1
        return self._strangers.place(network, group=_site(network))

    @asynccontextmanager
    async def _known_place(self, vault_id: str) -> AsyncIterator[None]:
        """Waits for a place of those that the vault may have, first come, first served."""
        turns = self._turns.setdefault(vault_id, asyncio.Semaphore(IN_FLIGHT_EACH))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turns.acquire()
        except TimeoutError:
            raise IdentityUnavailable(retry_delay=1.0) from None
        try:
            async with self._known.place(vault_id, group=vault_id):
                yield
        finally:
            turns.release()

    def _fail(self, digest: bytes, failures: int) -> None:
        now = time.monotonic()
        _put(self._failing, digest, Failing(failures, now + OPEN_SECONDS if failures >= FAILURES else 0.0))
        # Not for each token, or anyone could fill the log.
        if now - self._warned >= OPEN_SECONDS:
            self._warned = now
            logger.warning("the Emblem API fails", url=self._url)


class Places:
    """Places for requests in flight: `total`, of which one key may take `each`.

    Keys belong to groups. When every place is taken, a group takes one of the group with the most, unless it would then
    have as many itself: so one that takes all keeps nobody else out.
    """

    def __init__(self, *, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._keys: Counter[str] = Counter()
        # The requests that have places, the oldest first.
        self._groups: dict[str, dict[asyncio.Timeout, None]] = {}

    @asynccontextmanager
    async def place(self, key: str, *, group: str) -> AsyncIterator[None]:
        """Takes a place for the block. Raises IdentityUnavailable if there is none, or if another group takes it."""
        if self._keys[key] >= self._each:
            raise IdentityUnavailable(retry_delay=1.0)
        self._make_room(group)
        try:
            async with asyncio.timeout(None) as lasting:
                self._keys[key] += 1
                self._groups.setdefault(group, {})[lasting] = None
                try:
                    yield
                finally:
                    self._keys -= Counter([key])
                    self._leave(group, lasting)
        except TimeoutError:
            raise IdentityUnavailable(retry_delay=1.0) from None

    def _make_room(self, group: str) -> None:
        if sum(map(len, self._groups.values())) < self._total:
            return
        largest = max(self._groups, key=lambda each: len(self._groups[each]))
        if len(self._groups[largest]) <= len(self._groups.get(group, ())) + 1:
            raise IdentityUnavailable(retry_delay=1.0)
        oldest = next(iter(self._groups[largest]))
        self._leave(largest, oldest)
        oldest.reschedule(asyncio.get_running_loop().time())

    def _leave(self, group: str, request: asyncio.Timeout) -> None:
        requests = self._groups.get(group, {})
        requests.pop(request, None)
        if not requests:
            self._groups.pop(group, None)


def _site(network: str) -> str:
    """Returns the /48 of an IPv6 network, which one site may have (RFC 6177), or else the network itself."""
    if not network.endswith("/64"):
        return network
    return str(ipaddress.IPv6Network(network).supernet(new_prefix=48))


def _put(table: dict[bytes, T], digest: bytes, value: T) -> None:
    """Puts a value into a bounded table. The oldest makes room; its token is merely sent again."""
    table.pop(digest, None)
    if len(table) >= CACHED_DIGESTS:
        table.pop(next(iter(table)))
    table[digest] = value


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
