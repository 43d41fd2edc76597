"""Token counts and their cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the model provider, and their cost; `input_tokens` excludes both cache counts.

    `estimated`: some of them are the most that they can be, because the provider has not reported them.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd_nanos: int = 0
    estimated: bool = False


class SubjectKind(StrEnum):
    """The subjects of usage, besides days and models. In `subject_usage` users and labels have these names."""

    SESSION = "session"
    USER = "user"
    LABEL = "label"


def total(usages: Iterable[Usage]) -> Usage:
    """Returns the sum of usages, which is estimated if one of them is."""
    found = list(usages)
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in found),
        output_tokens=sum(usage.output_tokens for usage in found),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in found),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in found),
        cost_usd_nanos=sum(usage.cost_usd_nanos for usage in found),
        estimated=any(usage.estimated for usage in found),
    )


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of the turns that ended on `day` (UTC, YYYY-MM-DD). Fields that were not grouped by are empty."""

    day: str
    model: str
    session_id: str
    usage: Usage
    turns: int
    user_id: str = ""
    label: str = ""
