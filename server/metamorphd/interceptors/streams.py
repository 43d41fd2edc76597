"""Open streams, and what ends them early: an expired or revoked token, a caller who does not read, or send."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from metamorphd.auth.revocations import Revocations
from metamorphd.auth.tokens import LEEWAY_SECONDS
from metamorphd.clock import Clock
from metamorphd.errors import DomainError, ReaderTooSlow, SenderTooSlow, TokenExpired, TokenRevoked
from metamorphd.models import Caller

# A write waits for the caller to read what came before, HTTP/2 gives it about 64 KiB of credit; a read for it to send.
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0


class Stream:
    """One open stream. What it costs while nothing happens is paid ten thousand times: it owns a single timer."""

    __slots__ = ("_context", "_lasting", "caller", "error", "too_slow", "waiting_since")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller, lasting: asyncio.Timeout) -> None:
        self.caller = caller
        self.error: DomainError = TokenExpired()
        self.too_slow: DomainError = ReaderTooSlow()
        self.waiting_since: float | None = None
        self._context = context
        self._lasting = lasting

    def end(self, error: DomainError) -> None:
        """Ends it with `error`, as soon as its task runs."""
        self.error = error
        self._lasting.reschedule(0)

    async def write_all(self, responses: AsyncIterator[Any]) -> None:
        """Sends what comes, each once the caller has room for it."""
        loop = asyncio.get_running_loop()
        async for response in responses:
            self.waiting_since = loop.time()
            await self._context.write(response)
            self.waiting_since = None

    async def read_all(self) -> AsyncGenerator[bytes]:
        """What the caller sends, until it has finished, or is gone: grpc tells these two alike."""
        loop = asyncio.get_running_loop()
        self.too_slow = SenderTooSlow()
        while True:
            self.waiting_since = loop.time()
            raw = await self._context.read()
            self.waiting_since = None
            if raw is grpc.aio.EOF:
                return
            yield raw


class Streams:
    """All open streams of a server."""

    def __init__(self, *, revocations: Revocations, clock: Clock, patience_seconds: float) -> None:
        self._revocations = revocations
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._open: set[Stream] = set()
        self._looking: asyncio.TimerHandle | None = None
        revocations.listen(self._end_revoked)

    @contextlib.asynccontextmanager
    async def opened(self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller) -> AsyncGenerator[Stream]:
        """A stream while it is open. Raises TokenExpired, TokenRevoked, ReaderTooSlow, SenderTooSlow."""
        expire_time = caller.expire_time
        seconds = None if expire_time is None else (expire_time - self._clock.now()) / 1e6 + LEEWAY_SECONDS
        try:
            async with asyncio.timeout(seconds) as lasting:
                stream = Stream(context, caller, lasting)
                self._open.add(stream)
                self._look_later()
                try:
                    yield stream
                finally:
                    self._open.discard(stream)
        except TimeoutError:
            if lasting.expired():
                raise stream.error from None
            raise

    def _end_revoked(self) -> None:
        for stream in list(self._open):
            if self._revocations.revoked(stream.caller):
                stream.end(TokenRevoked())

    def _look_later(self) -> None:
        """One look at all streams a second, instead of a timer for every write and read."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        longest_ago = asyncio.get_running_loop().time() - self._patience_seconds
        for stream in self._open:
            if stream.waiting_since is not None and stream.waiting_since < longest_ago:
                stream.end(stream.too_slow)
        if self._open:
            self._look_later()
