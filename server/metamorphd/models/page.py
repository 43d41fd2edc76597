"""Pages of a list."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. The next page begins after `next_after`, which is None on the last page."""

    items: tuple[T, ...]
    next_after: tuple[int | str, ...] | None
