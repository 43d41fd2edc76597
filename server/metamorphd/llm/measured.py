"""A model whose calls are counted and timed."""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Self

from prometheus_client.registry import Collector

from metamorphd.errors import DomainError, Internal
from metamorphd.llm.interface import Model, Prompt, ReplyEvent, ReplyStop
from metamorphd.metrics import Counter, Histogram

OK = "OK"
# A reply that nobody waits for any more: its turn was cancelled, or is long enough.
ABANDONED = "ABANDONED"
GENERATE, COUNT_TOKENS = "generate", "count_tokens"


class MeasuredModel:
    """Passes calls on to another model. A call's result is OK, ABANDONED, or the reason of its error."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.source = model.source
        self.charges = model.charges
        self._calls = Counter(
            "metamorph_upstream_calls", "Calls to the model provider, after retries", "operation", "model", "result"
        )
        self._durations = Histogram(
            "metamorph_upstream_duration_seconds", "Duration of calls to the model provider", "operation", "model"
        )
        self._first = Histogram(
            "metamorph_upstream_first_event_seconds", "Until the model provider's reply begins", "model"
        )

    @property
    def collectors(self) -> Iterable[Collector]:
        """Returns its metrics."""
        return (self._calls, self._durations, self._first)

    async def __aenter__(self) -> Self:
        await self._model.__aenter__()
        return self

    async def opened(self) -> None:
        await self._model.opened()

    async def __aexit__(self, *exc: object) -> None:
        await self._model.__aexit__(*exc)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        # The library may still be loading, which is not the provider's time.
        await self._model.opened()
        model, began, result, first = prompt.options.model, time.monotonic(), ABANDONED, True
        reply = self._model.generate(prompt)
        # It may be of megabytes.
        del prompt
        try:
            async with aclosing(reply) as batches:
                async for batch in batches:
                    if first:
                        first = False
                        self._first.of(model).add(time.monotonic() - began)
                    if batch and isinstance(batch[-1], ReplyStop):
                        result = OK
                    yield batch
        except Exception as exc:
            result = _reason(exc)
            raise
        finally:
            self._ended(GENERATE, model, result, began)

    async def count_tokens(self, prompt: Prompt) -> int:
        await self._model.opened()
        model, began, result = prompt.options.model, time.monotonic(), ABANDONED
        counting = self._model.count_tokens(prompt)
        del prompt
        try:
            count = await counting
            result = OK
        except Exception as exc:
            result = _reason(exc)
            raise
        finally:
            self._ended(COUNT_TOKENS, model, result, began)
        return count

    def _ended(self, operation: str, model: str, result: str, began: float) -> None:
        self._calls.add(operation, model, result)
        self._durations.of(operation, model).add(time.monotonic() - began)


def _reason(exc: Exception) -> str:
    return exc.reason_name() if isinstance(exc, DomainError) else Internal.reason_name()
