"""The usage of a call to a model: docs/decisions/0036-what-is-not-reported-is-estimated.md."""

from collections.abc import Sequence
from dataclasses import replace

from metamorphd.catalog import Catalog
from metamorphd.llm.interface import Prompt, ReplyUsage
from metamorphd.models.content import AttachmentBlock, attachment_blocks
from metamorphd.models.usage import Usage

# Of a call that was not answered yet. The provider reads the prompt before it answers.
UNANSWERED = ReplyUsage(Usage(), most_output_tokens=0, unreported_reads=1)


class Tariff:
    """Prices usage. A model that does not charge is free."""

    def __init__(self, *, catalog: Catalog, charges: bool) -> None:
        self.catalog = catalog
        self._charges = charges

    def priced(self, model: str, reply: ReplyUsage, *, most_input_tokens: int) -> Usage:
        """Returns the usage of a call, with the most that it can be where it was not reported, and its cost.

        `most_input_tokens` is the most that the prompt can have.
        """
        usage = reply.usage
        if reply.most_output_tokens is None and not reply.unreported_reads:
            return replace(usage, cost_usd_nanos=self._cost(model, usage))
        read = reply.unreported_reads * most_input_tokens
        output = max(usage.output_tokens, reply.most_output_tokens or 0)
        usage = replace(usage, output_tokens=output, estimated=True)
        # Whichever is dearer: what is read for the first time, or what is put into the cache as well.
        cached = replace(usage, cache_write_tokens=usage.cache_write_tokens + read)
        usage = replace(usage, input_tokens=usage.input_tokens + read)
        return replace(usage, cost_usd_nanos=max(self._cost(model, usage), self._cost(model, cached)))

    def most_cost(self, model: str, *, input_tokens: int, output_tokens: int) -> int:
        """Returns the most that a call can cost."""
        return (
            self.catalog.most_cost(model, input_tokens=input_tokens, output_tokens=output_tokens)
            if self._charges
            else 0
        )

    def _cost(self, model: str, usage: Usage) -> int:
        # A turn that an earlier process left may have a model that was taken out of the catalog.
        return self.catalog.cost(model, usage) if self._charges and self.catalog.accepts(model) else 0


class Meter:
    """The usage of one call to a model, from its prompt and what its reply reports."""

    def __init__(self, tariff: Tariff, prompt: Prompt) -> None:
        self._tariff = tariff
        self._model = prompt.options.model
        self._most_input_tokens = tariff.catalog.model(self._model).most_input_tokens(
            system_prompt=prompt.system_prompt,
            options=prompt.options,
            message_bytes=prompt.text_bytes,
            attachments=_attachments(prompt),
        )
        self._most_output_tokens = prompt.options.max_output_tokens
        self._last: ReplyUsage | None = UNANSWERED

    def read(self, reply: ReplyUsage) -> None:
        """Reads what a reply reports."""
        self._last = reply

    def fail(self) -> None:
        """Is called when a call fails, which costs nothing unless a reply had begun."""
        self._last = None if self._last is UNANSWERED else self._last

    @property
    def most(self) -> tuple[int, int]:
        """Returns the most that the call can use: tokens and cost."""
        read, written = self._most_input_tokens, self._most_output_tokens
        return read + written, self._tariff.most_cost(self._model, input_tokens=read, output_tokens=written)

    @property
    def usage(self) -> Usage:
        """Returns the usage so far, with its cost."""
        if self._last is None:
            return Usage()
        return self._tariff.priced(self._model, self._last, most_input_tokens=self._most_input_tokens)

    @property
    def reported(self) -> Usage | None:
        """Returns what the provider has reported so far, with its cost, or None if that is not even the input."""
        if self._last is None or self._last.unreported_reads:
            return None
        return self._tariff.priced(self._model, ReplyUsage(self._last.usage), most_input_tokens=0)


def _attachments(prompt: Prompt) -> Sequence[AttachmentBlock]:
    # Most prompts have none, and thousands of messages.
    if not prompt.attachments:
        return ()
    return [block for message in prompt.messages for block in attachment_blocks(message.content)]
