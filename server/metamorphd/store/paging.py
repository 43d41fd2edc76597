"""Pages of a list."""

from collections.abc import Callable
from typing import TypeVar

from metamorphd.models.page import Page
from metamorphd.store.database import Row

T = TypeVar("T")


def page_of(
    rows: list[Row], page_size: int, *, item: Callable[[Row], T], after: Callable[[Row], tuple[int | str, ...]]
) -> Page[T]:
    """Returns a page of at most `page_size` rows. Their `candidate_count` is the number before any was cut off."""
    shown = rows[:page_size]
    more = bool(rows) and rows[0].candidate_count > len(shown)
    return Page(tuple(map(item, shown)), after(shown[-1]) if more else None)
