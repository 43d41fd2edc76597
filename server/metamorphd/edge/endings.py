"""Ends refused streams, some at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from metamorphd.errors import DomainError

# An end takes a quarter of a millisecond, and a thousand at once would keep everybody waiting.
STEP_ENDS, STEP_CHECKS = 2, 200
STEP_SECONDS = 0.002


class Ending(Protocol):
    """A stream that can be ended, and may have been already."""

    def end(self, error: DomainError) -> None: ...


S = TypeVar("S", bound=Ending)


class Endings(Generic[S]):
    """The streams that are to be checked, and those that are refused and have not ended. Each is in here once."""

    def __init__(self, *, refusal_of: Callable[[S], DomainError | None]) -> None:
        self._refusal_of = refusal_of
        self._unchecked: OrderedDict[S, None] = OrderedDict()
        self._refused: OrderedDict[S, DomainError] = OrderedDict()
        self._stepping = False

    def check(self, streams: Iterable[S]) -> None:
        """Ends those of the streams that are refused by then, within moments."""
        self._unchecked.update(OrderedDict.fromkeys(streams))
        self._begin()

    def refuse(self, stream: S, error: DomainError) -> None:
        """Ends a stream with an error, within moments."""
        self._refused.setdefault(stream, error)
        self._begin()

    def remove(self, stream: S) -> None:
        """Forgets a stream, which has ended."""
        self._unchecked.pop(stream, None)
        self._refused.pop(stream, None)

    def _begin(self) -> None:
        if not self._stepping:
            self._stepping = True
            self._step()

    def _step(self) -> None:
        for _ in range(min(STEP_CHECKS, len(self._unchecked))):
            stream, _ = self._unchecked.popitem(last=False)
            if (refusal := self._refusal_of(stream)) is not None:
                self._refused.setdefault(stream, refusal)
        for _ in range(min(STEP_ENDS, len(self._refused))):
            stream, refusal = self._refused.popitem(last=False)
            stream.end(refusal)
        self._stepping = bool(self._unchecked or self._refused)
        if self._stepping:
            asyncio.get_running_loop().call_later(STEP_SECONDS, self._step)
