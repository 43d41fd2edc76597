"""Reads the only request of a call, and refuses large ones that a vault sends too many of at a time or too fast.

How large a request is, is known once gRPC has read all of it and joined its pieces, on the event loop. So what takes
long to arrive is taken for large.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from metamorphd.edge.call import Call
from metamorphd.edge.guards import LARGEST_INLINE
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.edge.streams import Streams
from metamorphd.errors import ByteRateExceeded, RequestMalformed
from metamorphd.in_flight import BytesInFlight

# Large requests of a vault that may be on their way without being counted. An ordinary one is there at once.
ARRIVING = 1
# After this time, a request that has not arrived is large.
SOON_SECONDS = 0.1
# Joining the pieces of 20 MB takes 10 to 20 ms, so each vault's large requests have a rate. Beyond it, one that has not
# arrived after the shorter time is refused without being joined, if it is for a method that received large ones: a
# small one may be late on a busy connection.
LARGE_BYTES_PER_SECOND = 8 * 1024 * 1024
LARGE_BURST_SECONDS = 2
VERY_SOON_SECONDS = 0.005


class Arrivals:
    """Reads requests. Those of one vault take turns where they may be large."""

    def __init__(self, *, streams: Streams, in_flight: BytesInFlight) -> None:
        self._streams = streams
        self._in_flight = in_flight
        self._arriving: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._large_bytes = RateLimit(
            requests=LARGE_BYTES_PER_SECOND * LARGE_BURST_SECONDS, window_seconds=LARGE_BURST_SECONDS
        )

    async def read(self, call: Call) -> None:
        """Sets the serialized request of a call, and the memory that it takes up.

        Raises RequestMalformed if there is none, SenderTooSlow, BytesInFlightExceeded and ByteRateExceeded.
        """
        if call.method.max_request_bytes > LARGEST_INLINE:
            call.raw = await self._read_large(call)
        elif self._wait(call):
            # Whatever the method accepts, gRPC reads up to the size that any does.
            late = partial(self._refuse_too_fast, call)
            call.raw = await self._streams.read(call.exchange, late=late, soon=VERY_SOON_SECONDS)
        else:
            call.raw = await self._streams.read(call.exchange, late=None)
        if call.raw is call.exchange.end:
            raise RequestMalformed
        size = len(call.raw)
        if size > LARGEST_INLINE:
            self._large_bytes.charge(call.scope.vault_id, size)
            self._large_bytes.charge((call.scope.vault_id, call.method.path), size)
        if call.hold is not None:
            call.hold.resize(size if size > LARGEST_INLINE else 0)

    async def _read_large(self, call: Call) -> Any:
        """Returns the request of a call that may be of megabytes.

        One that is late counts as the largest that the method accepts. Until then, a call has a place among those of
        its vault, and others wait for one.
        """
        vault_id = call.scope.vault_id
        hold = call.hold = self._in_flight.hold(vault_id)
        places = self._arriving.setdefault(vault_id, asyncio.Semaphore(ARRIVING))
        await places.acquire()
        leave = Once(places.release)

        def late() -> None:
            self._refuse_too_fast(call)
            hold.resize(call.method.max_request_bytes)
            leave()

        soon = VERY_SOON_SECONDS if self._wait(call) else SOON_SECONDS
        try:
            return await self._streams.read(call.exchange, late=late, soon=soon)
        finally:
            leave()

    def _wait(self, call: Call) -> float:
        """Returns for how many seconds large requests of a call's vault and method are refused."""
        vault_id = call.scope.vault_id
        wait = self._large_bytes.wait(vault_id)
        return wait if wait and self._large_bytes.charged((vault_id, call.method.path)) else 0.0

    def _refuse_too_fast(self, call: Call) -> None:
        wait = self._wait(call)
        if wait:
            raise ByteRateExceeded(bytes_per_second=LARGE_BYTES_PER_SECOND, retry_delay=wait)


class Once:
    """Calls a function the first time that it is called."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()
