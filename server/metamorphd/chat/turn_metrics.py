"""Metrics of turns: how they end, how soon a reply begins, and what is used."""

from collections.abc import Iterable

from prometheus_client.registry import Collector

from metamorphd.metrics import Counter, Histogram
from metamorphd.models.turn import TurnFinished, TurnStatus
from metamorphd.models.usage import Usage

ENDED = (TurnStatus.COMPLETED, TurnStatus.CANCELLED, TurnStatus.INTERRUPTED, TurnStatus.FAILED)


class TurnMetrics:
    """Counts the turns that this process ends, and what they and titles use. Times are in microseconds."""

    def __init__(self) -> None:
        self._turns = Counter("metamorph_turns", "Turns that ended, by status and reason", "status", "reason")
        for status in ENDED:
            self._turns.add(status, "", amount=0)
        self._durations = Histogram("metamorph_turn_duration_seconds", "From a turn's creation to its end")
        self._first = Histogram(
            "metamorph_first_token_seconds",
            "From a turn's creation until the beginning of its reply is stored and sent",
            "model",
        )
        self._tokens = Counter("metamorph_tokens", "Tokens used, by model and kind", "model", "kind")
        self._cost = Counter("metamorph_cost_usd", "Cost in USD, by model", "model")

    @property
    def collectors(self) -> Iterable[Collector]:
        """Returns all of them."""
        return (self._turns, self._durations, self._first, self._tokens, self._cost)

    def began(self, model: str, *, create_time: int, now: int) -> None:
        """Is called when the beginning of a reply is published."""
        self._first.of(model).add(max(0, now - create_time) / 1e6)

    def ended(self, finished: TurnFinished, *, create_time: int, now: int) -> None:
        """Is called when the end of a turn is stored."""
        self._turns.add(finished.status, "" if finished.error is None else finished.error.reason)
        self._durations.of().add(max(0, now - create_time) / 1e6)

    def used(self, model: str, usage: Usage) -> None:
        """Is called when usage is stored."""
        self._tokens.add(model, "input", amount=usage.input_tokens)
        self._tokens.add(model, "output", amount=usage.output_tokens)
        self._tokens.add(model, "cache_read", amount=usage.cache_read_tokens)
        self._tokens.add(model, "cache_write", amount=usage.cache_write_tokens)
        self._cost.add(model, amount=usage.cost_usd_nanos / 1e9)
