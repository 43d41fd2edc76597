"""Calls that wait for their callers, and end early: with the token, with the vault, or if the caller is too slow."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from metamorphd.auth.claims import EXPIRED, LEEWAY
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.clock import Clock
from metamorphd.edge.call import Exchange, Metadata
from metamorphd.edge.endings import Endings
from metamorphd.errors import (
    DomainError,
    ReaderTooSlow,
    SenderTooSlow,
    TokenExpired,
    TokenRevoked,
    VaultDeleted,
    VaultSuspended,
)
from metamorphd.models.caller import Caller
from metamorphd.vault_states import VaultStates

# How long a read may wait for the caller to send, and a write for it to read: HTTP/2 buffers about 64 KiB.
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0
# While the event loop is busy, a request that is here is handled later than a timer, by some steps of the loop. So many
# timers, one after the other, are later than it.
SETTLE_STEPS = 10
SETTLE_SECONDS = 0.0005


class Stream:
    """One stream, open while it is entered.

    Idle streams must be cheap, because there may be ten thousand. A stream has a single timer, and is its own context
    manager, which takes a kilobyte less than a generator-based one.
    """

    __slots__ = (
        "_exchange",
        "_lasting",
        "_streams",
        "caller",
        "error",
        "in_any_vault_state",
        "too_slow",
        "waiting_since",
    )

    def __init__(
        self,
        exchange: Exchange,
        caller: Caller,
        *,
        in_any_vault_state: bool,
        seconds: float | None,
        streams: "Streams",
    ) -> None:
        self.caller = caller
        self.in_any_vault_state = in_any_vault_state
        self.error: DomainError = TokenExpired(EXPIRED)
        self.too_slow: DomainError = ReaderTooSlow()
        self.waiting_since: float | None = None
        self._exchange = exchange
        self._lasting = asyncio.timeout(seconds)
        self._streams = streams

    async def __aenter__(self) -> Self:
        self._streams.check(self.caller, in_any_vault_state=self.in_any_vault_state)
        await self._lasting.__aenter__()
        self._streams.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.remove(self)
        try:
            await self._lasting.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self.error from None

    def end(self, error: DomainError) -> None:
        """Ends the stream with `error`, as soon as its task runs."""
        # If the stream is already ending, the first reason applies.
        if not self._lasting.expired():
            self.error = error
            self._lasting.reschedule(0)

    async def write_all(self, responses: AsyncIterator[Any], *, ahead: Metadata, answered: Callable[[], None]) -> None:
        """Sends each response as soon as flow control allows. Calls `answered` when there is one.

        Sends the metadata `ahead` of the first one, so that a caller knows by it that the call is not refused. A
        response of None is that alone. Sends nothing more once its caller is refused, and ends within moments.
        """
        loop = asyncio.get_running_loop()
        async for response in responses:
            answered()
            await self._admitted()
            self.waiting_since = loop.time()
            if ahead:
                await self._exchange.send_initial_metadata(ahead)
                ahead = ()
            if response is not None:
                await self._exchange.write(response.SerializeToString())
            self.waiting_since = None
            # It would stay in memory until the next response.
            del response

    async def read_all(self) -> AsyncGenerator[Any]:
        """Yields the caller's requests as bytes, until it has finished or is gone, which look the same in gRPC."""
        loop = asyncio.get_running_loop()
        self.too_slow = SenderTooSlow()
        while True:
            self.waiting_since = loop.time()
            raw = await self._exchange.read()
            self.waiting_since = None
            if raw is self._exchange.end:
                return
            await self._admitted()
            yield raw

    async def _admitted(self) -> None:
        """Returns if the caller is not refused by now, and waits for the end of the stream otherwise."""
        if self._streams.refuses(self):
            await asyncio.get_running_loop().create_future()


class Streams:
    """Every call that waits for its caller: open streams, and calls whose only request has not arrived.

    All of them are checked once a second, instead of with a timer for each read and write.
    """

    def __init__(
        self, *, revoked_tokens: RevokedTokens, vault_states: VaultStates, clock: Clock, patience_seconds: float
    ) -> None:
        self._revoked_tokens = revoked_tokens
        self._vault_states = vault_states
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._open: set[Stream] = set()
        # When each task started to wait for its call's request, or why it no longer does.
        self._reading: dict[asyncio.Task[Any], float | DomainError] = {}
        self._looking: asyncio.TimerHandle | None = None
        # Late reads, with the step at which each is counted.
        self._settling: deque[tuple[int, asyncio.Task[Any], Callable[[], None]]] = deque()
        self._step = 0
        self._endings = Endings[Stream](refusal_of=self._refusal_of)
        revoked_tokens.listen(self._end_refused)
        vault_states.listen(self._end_refused)

    async def read(self, exchange: Exchange, *, late: Callable[[], None] | None, soon: float = 0) -> Any:
        """Returns a call's first request as bytes, or `exchange.end`. Raises SenderTooSlow.

        If the request does not arrive within `soon` seconds, calls `late`, and raises the DomainError that it raises.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a call runs in a task")
        self._reading[task] = loop.time()
        if self._looking is None:
            self._look_later()
        timer = None if late is None else loop.call_later(soon, self._late, task, late)
        try:
            return await exchange.read()
        except asyncio.CancelledError:
            refusal = self._reading[task]
            # If both the check and the caller cancelled the task, the caller takes precedence.
            if not isinstance(refusal, DomainError) or task.uncancel():
                raise
            try:
                raise refusal from None
            finally:
                del refusal
        finally:
            del self._reading[task]
            if timer is not None:
                timer.cancel()
            # The refusal refers to this frame, which would refer to it, and keep what was read, possibly megabytes.
            del task

    def opened(self, exchange: Exchange, caller: Caller, *, in_any_vault_state: bool) -> Stream:
        """Returns a stream, which raises while it is entered.

        TokenExpired, TokenRevoked, ReaderTooSlow or SenderTooSlow, and VaultSuspended or VaultDeleted unless
        `in_any_vault_state`.
        """
        expire_time = caller.expire_time
        seconds = None if expire_time is None else (expire_time + LEEWAY - self._clock.now()) / 1e6
        return Stream(exchange, caller, in_any_vault_state=in_any_vault_state, seconds=seconds, streams=self)

    def check(self, caller: Caller, *, in_any_vault_state: bool) -> None:
        """Raises TokenExpired, TokenRevoked, VaultSuspended, VaultDeleted.

        After the guards, because a request may arrive long after its call was authenticated, and because the state is
        checked last.
        """
        if caller.expire_time is not None and self._clock.now() >= caller.expire_time + LEEWAY:
            raise TokenExpired(EXPIRED)
        self._check_refused(caller, in_any_vault_state)

    def _check_refused(self, caller: Caller, in_any_vault_state: bool) -> None:
        self._revoked_tokens.check(caller)
        if not in_any_vault_state:
            self._vault_states.check(caller.vault_id)

    def add(self, stream: Stream) -> None:
        """Starts checking a stream."""
        self._open.add(stream)
        if self._looking is None:
            self._look_later()

    def remove(self, stream: Stream) -> None:
        """Stops checking a stream."""
        self._open.discard(stream)
        self._endings.remove(stream)

    def refuses(self, stream: Stream) -> bool:
        """Returns whether the caller of an open stream is refused by now, which ends the stream within moments."""
        refusal = self._refusal_of(stream)
        if refusal is not None:
            self._endings.refuse(stream, refusal)
        return refusal is not None

    def _refusal_of(self, stream: Stream) -> DomainError | None:
        try:
            self._check_refused(stream.caller, stream.in_any_vault_state)
        except (TokenRevoked, VaultSuspended, VaultDeleted) as refusal:
            # Its traceback refers to this frame.
            return refusal.with_traceback(None)
        return None

    def _end_refused(self) -> None:
        self._endings.check(self._open)

    def _late(self, task: asyncio.Task[Any], late: Callable[[], None]) -> None:
        if not self._settling:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)
        self._settling.append((self._step + SETTLE_STEPS, task, late))

    def _settle(self) -> None:
        """Counts the reads whose time to settle has passed. One timer for all of them, or they would be the work."""
        self._step += 1
        while self._settling and self._settling[0][0] <= self._step:
            _, task, late = self._settling.popleft()
            self._count_late(task, late)
        if self._settling:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)

    def _count_late(self, task: asyncio.Task[Any], late: Callable[[], None]) -> None:
        # Not one that has been refused as too slow: cancelled twice, it would look like the caller's doing.
        if not isinstance(self._reading.get(task), float):
            return
        try:
            late()
        except DomainError as refusal:
            # Its traceback refers to the task.
            self._reading[task] = refusal.with_traceback(None)
            task.cancel()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        longest_ago = asyncio.get_running_loop().time() - self._patience_seconds
        for stream in self._open:
            if stream.waiting_since is not None and stream.waiting_since < longest_ago:
                self._endings.refuse(stream, stream.too_slow)
        for task, since in self._reading.items():
            if isinstance(since, float) and since < longest_ago:
                self._reading[task] = SenderTooSlow()
                task.cancel()
        if self._open or self._reading:
            self._look_later()
