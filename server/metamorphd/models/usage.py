"""Token counts and their cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the model provider, and their cost; `input_tokens` excludes both cache counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd_nanos: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of the turns that ended on `day` (UTC, YYYY-MM-DD). Fields that were not grouped by are empty."""

    day: str
    model: str
    session_id: str
    usage: Usage
    turns: int
