"""A rate limit that replicas share through Redis, by the `limits` library."""

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
# After a failure Redis is left alone for so long: nobody should wait for its timeout at every call.
RETRY_SECONDS = 5.0

logger = structlog.get_logger(__name__)


class SharedLimits:
    """Makes limits whose counts are in Redis at `uri`."""

    def __init__(self, uri: str) -> None:
        self._pool = ConnectionPool.from_url(
            uri, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )
        # The address is told again for its scheme only: the pool has it.
        options: dict[str, Any] = {"connection_pool": self._pool}
        self._storage = RedisStorage("async+redis://", implementation="redispy", **options)

    def limit(self, name: str, *, requests: int, window_seconds: float) -> "SharedRateLimit":
        """A limit by its name; `requests` must not be 0."""
        limiter = SlidingWindowCounterRateLimiter(self._storage)
        return SharedRateLimit(limiter, name=name, requests=requests, window_seconds=window_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection."""
        await self._pool.aclose()


class SharedRateLimit:
    """As RateLimit, with the counts in Redis.

    While Redis cannot be asked, this process counts on its own: a limiter that is down must not stop the service, nor
    be gone.
    """

    def __init__(
        self, limiter: SlidingWindowCounterRateLimiter, *, name: str, requests: int, window_seconds: float
    ) -> None:
        self._limiter = limiter
        self._item = RateLimitItemPerSecond(requests, max(1, round(window_seconds)), namespace=f"metamorph:{name}")
        self._own = RateLimit(requests=requests, window_seconds=window_seconds)
        self._ask_again = 0.0

    async def take(self, key: tuple[Hashable, ...]) -> float:
        """Takes one request of a key's allowance; answers 0, or the seconds until there is one, and takes none."""
        if time.monotonic() < self._ask_again:
            return self._own.take(key)
        names = [str(part) for part in key]
        try:
            if await self._limiter.hit(self._item, *names):
                return 0.0
            stats = await self._limiter.get_window_stats(self._item, *names)
        except (RedisError, OSError) as exc:
            self._ask_again = time.monotonic() + RETRY_SECONDS
            logger.warning("rate limits are not shared: Redis cannot be asked", error=type(exc).__name__)
            return self._own.take(key)
        return max(0.001, stats.reset_time - time.time())
