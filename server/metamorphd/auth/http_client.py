"""Restricted HTTP client: no redirects, a short timeout, small responses."""

import asyncio
from typing import Self

import httpx2

from metamorphd.errors import IdentityUnavailable

TIMEOUT_SECONDS = 2.0
LARGEST_ANSWER = 65_536


class HttpClient:
    """Asks servers on the web. Trusts the certificate authorities of the system (`SSL_CERT_FILE`)."""

    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=TIMEOUT_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""
        await self._client.aclose()

    async def ask(self, method: str, url: str, *, bearer: str | None = None) -> tuple[int, bytes]:
        """Status and body of the answer, redirects included. Raises IdentityUnavailable."""
        # Uncompressed: what is small on the wire might not be small here.
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
                    if len(body) > LARGEST_ANSWER:
                        raise IdentityUnavailable(retry_delay=1.0)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as exc:
            raise IdentityUnavailable(retry_delay=1.0) from exc
        return response.status_code, bytes(body)
