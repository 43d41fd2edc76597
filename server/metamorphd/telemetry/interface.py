"""The interface of telemetry, and its implementation for a server that has none, which imports nothing for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from prometheus_client.registry import Collector

from metamorphd.metrics import Histogram
from metamorphd.models.finding import Finding
from metamorphd.models.span import NOT_RECORDED, Span


@dataclass(frozen=True, slots=True)
class Measure:
    """A histogram of the server under its name of the conventions. Its values are in seconds.

    `attributes` returns those of the values of its labels, or None for values that the conventions do not mean.
    """

    name: str
    about: str
    histogram: Histogram
    attributes: Callable[[tuple[str, ...]], Mapping[str, str] | None]


class Telemetry(Protocol):
    """Records calls, and sends what was recorded. An async context manager: leaving it sends what is left."""

    collectors: Iterable[Collector]
    """Metrics about itself."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def measure(self, measures: Sequence[Measure], /) -> None:
        """Sends these too. Is called once, before it is entered."""

    def call(self, path: str, headers: Sequence[tuple[str, str | bytes]], /) -> Span:
        """Begins the span of a call of a method, `/package.Service/Method`, unless the call is not to be recorded.

        `headers` are the caller's `traceparent` and `tracestate`, which may be anything.
        """

    def findings(self) -> list[Finding]:
        """Returns how sending goes."""


class NoTelemetry:
    """Records nothing."""

    collectors: Iterable[Collector] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def measure(self, _measures: Sequence[Measure], /) -> None:
        pass

    def call(self, _path: str, _headers: Sequence[tuple[str, str | bytes]], /) -> Span:
        return NOT_RECORDED

    def findings(self) -> list[Finding]:
        return []
