"""Spans: what traces consist of. Each is an operation with a beginning, an end and what is known of it."""

from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType
from typing import Self

Attributes = Mapping[str, str | bool | int | float | list[str]]

NOTHING: Mapping[str, str] = {}


class SpanKind(StrEnum):
    """Where the other side of an operation is: it has called this server, this server calls it, or there is none."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Span:
    """An operation that is not recorded, as most are not: nor is what it consists of. Recorded ones override all of it.

    Whoever begins a span ends it. It may end later than the span that it is a part of. As a context manager, it ends
    with its block, and says how that has failed.
    """

    __slots__ = ()

    recorded = False
    """Whether it is worth finding out what to say about it."""

    @property
    def ids(self) -> Mapping[str, str]:
        """Returns `trace_id` and `span_id`, for a log line, or nothing."""
        return NOTHING

    def child(self, _name: str, /, *, kind: SpanKind, attributes: Attributes) -> "Span":
        """Begins a part of this operation."""
        return self

    def describe(self, attributes: Attributes, /) -> None:
        """Adds attributes."""

    def end(self, *, error: str = "") -> None:
        """Ends it. `error` is the kind of error with which it has failed. Only the first end counts."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


NOT_RECORDED = Span()
