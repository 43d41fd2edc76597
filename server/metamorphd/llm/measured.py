"""A model whose calls are counted, timed and traced."""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Self

from prometheus_client.registry import Collector

from metamorphd.errors import DomainError, Internal
from metamorphd.llm.interface import Model, Prompt, ReplyEvent, ReplyStop, ReplyUsage
from metamorphd.metrics import Counter, Histogram
from metamorphd.models.span import Attributes, Span, SpanKind
from metamorphd.telemetry import names
from metamorphd.telemetry.attributes import of_usage
from metamorphd.telemetry.interface import Measure

OK = "OK"
# A reply that nobody waits for any more: its turn was cancelled, or is long enough.
ABANDONED = "ABANDONED"
GENERATE, COUNT_TOKENS = "generate", "count_tokens"
# By the source of replies. Others are their own.
PROVIDERS = {"claude": "anthropic"}


class MeasuredModel:
    """Passes calls on to another model. A call's result is OK, ABANDONED, or the reason of its error.

    A call has one span, with all its retries, within that of its prompt. The other model describes the response in it.
    """

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

    @property
    def measures(self) -> Iterable[Measure]:
        """Returns its metrics of replies for OpenTelemetry."""
        return (
            Measure(
                names.INFERENCE_DURATION, "GenAI inference duration.", self._durations, self._attributes_of_duration
            ),
            Measure(
                names.INFERENCE_TIME_TO_FIRST_CHUNK,
                "Time to receive the first chunk of a streamed response.",
                self._first,
                lambda values: self._attributes(names.CHAT, values[0]),
            ),
        )

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        # The library may still be loading, which is not the provider's time.
        await self._model.opened()
        model, began, result, first = prompt.options.model, time.monotonic(), ABANDONED, True
        span = self._begin(names.CHAT, prompt, {names.GEN_AI_STREAM: True})
        usage: ReplyUsage | None = None
        reply = self._model.generate(replace(prompt, span=span))
        # It may be of megabytes.
        del prompt
        try:
            async with aclosing(reply) as batches:
                async for batch in batches:
                    if first:
                        first = False
                        seconds = time.monotonic() - began
                        self._first.of(model).add(seconds)
                        span.describe({names.GEN_AI_TIME_TO_FIRST_CHUNK: seconds})
                    if batch and isinstance(batch[0], ReplyUsage):
                        usage = batch[0]
                    if batch and isinstance(batch[-1], ReplyStop):
                        result = OK
                    yield batch
        except Exception as exc:
            result = _reason(exc)
            raise
        finally:
            self._ended(GENERATE, model, result, began)
            _end(span, result, usage)

    async def count_tokens(self, prompt: Prompt) -> int:
        await self._model.opened()
        model, began, result = prompt.options.model, time.monotonic(), ABANDONED
        span = self._begin(names.COUNT_TOKENS, prompt, {})
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
            span.end(error="" if result in (OK, ABANDONED) else result)
        return count

    def _ended(self, operation: str, model: str, result: str, began: float) -> None:
        self._calls.add(operation, model, result)
        self._durations.of(operation, model, result).add(time.monotonic() - began)

    def _begin(self, operation: str, prompt: Prompt, attributes: Attributes) -> Span:
        if not prompt.span.recorded:
            return prompt.span
        model = prompt.options.model
        given = {
            **self._attributes(operation, model),
            names.GEN_AI_MAX_TOKENS: prompt.options.max_output_tokens,
            **({names.GEN_AI_CONVERSATION: prompt.session_id} if prompt.session_id else {}),
            **attributes,
        }
        return prompt.span.child(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=given)

    def _attributes(self, operation: str, model: str) -> dict[str, str]:
        return {
            names.GEN_AI_OPERATION: operation,
            names.GEN_AI_PROVIDER: PROVIDERS.get(self.source, self.source),
            names.GEN_AI_MODEL: model,
        }

    def _attributes_of_duration(self, values: tuple[str, ...]) -> dict[str, str] | None:
        operation, model, result = values
        if operation != GENERATE:
            # Counting is no inference.
            return None
        failed = {} if result in (OK, ABANDONED) else {names.ERROR_TYPE: result}
        return self._attributes(names.CHAT, model) | failed


def _end(span: Span, result: str, usage: ReplyUsage | None) -> None:
    """Ends the span of a reply. One that nobody waited for has not failed."""
    if not span.recorded:
        return
    if usage is not None:
        span.describe(of_usage(usage.usage))
    if result != OK:
        span.describe({names.GEN_AI_FINISH_REASONS: [names.CUT_OFF]})
    span.end(error="" if result in (OK, ABANDONED) else result)


def _reason(exc: Exception) -> str:
    return exc.reason_name() if isinstance(exc, DomainError) else Internal.reason_name()
