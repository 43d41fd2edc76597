"""Restricted HTTP client: no redirects, no cookies, a short timeout, small responses."""

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self

import httpx2

from metamorphd.errors import IdentityUnavailable

TIMEOUT_SECONDS = 2.0
LARGEST_RESPONSE = 65_536
KEPT_CONNECTIONS = 20


class HttpClient:
    """HTTP client that trusts the system's certificate authorities (`SSL_CERT_FILE`)."""

    def __init__(self) -> None:
        # Those who use it limit their requests in flight, each by itself: a limit on the connections of all would let
        # one kind of request wait for the other.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS)
        # A cookie that is set for one caller's token would go along with the next caller's.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = httpx2.AsyncClient(
            follow_redirects=False, cookies=cookies, timeout=TIMEOUT_SECONDS, limits=limits
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""
        await self._client.aclose()

    async def request(self, method: str, url: str, *, bearer: str | None = None) -> tuple[int, bytes]:
        """Returns the status and body of the response, even if it is a redirect. Raises IdentityUnavailable."""
        # Uncompressed: a small compressed body may expand to a large one.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._client.stream(method, url, headers=headers) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST_RESPONSE:
                        raise IdentityUnavailable(retry_delay=1.0)
        except IdentityUnavailable:
            raise
        # Whatever the other server does to the client, it is that server which fails.
        except Exception as exc:
            raise IdentityUnavailable(retry_delay=1.0) from exc
        return response.status_code, bytes(body)
