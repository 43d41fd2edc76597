"""Asks a time stamping authority for tokens over HTTP (RFC 3161, section 3.4)."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from metamorphd.audit.timestamps import TimestampInvalid, TimestampRequest, TrustedCertificates
from metamorphd.clock import Clock
from metamorphd.errors import AuthorityFailed

TIMEOUT_SECONDS = 10.0
# In bytes. Those of well-known authorities have 1,000 to 7,000.
LARGEST_TOKEN = 16 * 1024
# Between its clock and ours.
LARGEST_DIFFERENCE = 300


class Authority:
    """An authority at a URL. Its tokens are taken if the certificates of `trusted` verify them."""

    def __init__(self, *, url: str, trusted: TrustedCertificates, clock: Clock) -> None:
        self._url = url
        self._trusted = trusted
        self._clock = clock
        self._client = httpx2.AsyncClient(
            headers={"content-type": "application/timestamp-query", "accept-encoding": "identity"},
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=TIMEOUT_SECONDS,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def stamp(self, digests: Sequence[bytes]) -> bytes:
        """Returns a token over digests, which was verified, within TIMEOUT_SECONDS. Raises AuthorityFailed."""
        request = TimestampRequest(digests)
        token = await self._ask(request.body)
        try:
            time = await asyncio.to_thread(request.verified, token, self._trusted)
        except TimestampInvalid as exc:
            raise AuthorityFailed(str(exc)) from None
        difference = round(time.timestamp() - self._clock.now() / 1e6)
        if abs(difference) > LARGEST_DIFFERENCE:
            raise AuthorityFailed(f"its clock and that of this server differ by {abs(difference):,} seconds")
        return token

    async def _ask(self, body: bytes) -> bytes:
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._client.stream("POST", self._url, content=body) as response,
            ):
                if response.status_code != HTTPStatus.OK:
                    raise AuthorityFailed(f"status {response.status_code}")
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > LARGEST_TOKEN:
                        raise AuthorityFailed(f"its answer has more than {LARGEST_TOKEN:,} bytes")
        except AuthorityFailed:
            raise
        except TimeoutError:
            raise AuthorityFailed(f"no answer within {TIMEOUT_SECONDS:.0f} seconds") from None
        except Exception as exc:
            # Its text may name the address.
            raise AuthorityFailed(type(exc).__name__) from None
        return bytes(answer)
