"""Rate limits that replicas share through Redis, with the `limits` library."""

import time
from collections.abc import Hashable
from typing import Any, Self

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from metamorphd.edge.rate_limit import RateLimit

TIMEOUT_SECONDS = 0.5
# Time after a failure during which Redis is not used, so that calls do not each wait for its timeout.
RETRY_SECONDS = 5.0

logger = structlog.get_logger(__name__)


class SharedLimits:
    """Creates limits whose counts are stored in Redis at `uri`."""

    def __init__(self, uri: str) -> None:
        self._pool = ConnectionPool.from_url(
            uri, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )
        # Only the scheme of this URI is used; the pool has the address.
        options: dict[str, Any] = {"connection_pool": self._pool}
        self._storage = RedisStorage("async+redis://", implementation="redispy", **options)

    def limit(self, name: str, *, requests: int, window_seconds: float) -> "SharedRateLimit":
        """Returns the limit of that name. `requests` must not be 0."""
        limiter = SlidingWindowCounterRateLimiter(self._storage)
        return SharedRateLimit(limiter, name=name, requests=requests, window_seconds=window_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""
        await self._pool.aclose()


class SharedRateLimit:
    """A rate limit like RateLimit, with the counts in Redis.

    While Redis is unavailable, this process counts by itself: the outage must neither stop the service nor lift the
    limits.
    """

    def __init__(
        self, limiter: SlidingWindowCounterRateLimiter, *, name: str, requests: int, window_seconds: float
    ) -> None:
        self._limiter = limiter
        self._item = RateLimitItemPerSecond(requests, max(1, round(window_seconds)), namespace=f"metamorph:{name}")
        self._own = RateLimit(requests=requests, window_seconds=window_seconds)
        self._retry_time = 0.0

    async def take(self, key: tuple[Hashable, ...]) -> float:
        """Takes one request from a key's allowance and returns 0, or returns the seconds until one is available."""
        if time.monotonic() < self._retry_time:
            return self._own.take(key)
        names = [str(part) for part in key]
        try:
            if await self._limiter.hit(self._item, *names):
                return 0.0
            stats = await self._limiter.get_window_stats(self._item, *names)
        except (RedisError, OSError) as exc:
            self._retry_time = time.monotonic() + RETRY_SECONDS
            logger.warning("rate limits are not shared: Redis is unavailable", error=type(exc).__name__)
            return self._own.take(key)
        return max(0.001, stats.reset_time - time.time())
