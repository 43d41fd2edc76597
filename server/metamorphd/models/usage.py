"""Token counts and their cost."""

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
    """What usage is added up by, besides days and models. In `subject_usage` users and labels have these names."""

    SESSION = "session"
    USER = "user"
    LABEL = "label"


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
