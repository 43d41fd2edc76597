"""The capabilities of models."""

from collections.abc import Iterator
from dataclasses import dataclass

from metamorphd.models.generation import EFFORTS, THINKING_MODES, EffectiveOptions


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The options and content that a model accepts.

    `thinking` has the modes that can be named, `efforts` the levels from the least to the most. `attachments` is the
    most images and documents that a prompt may have.
    """

    thinking: tuple[str, ...] = THINKING_MODES
    thinks_by_default: bool = False
    forced_tool_choice: bool = True
    efforts: tuple[str, ...] = EFFORTS
    images: bool = True
    documents: bool = True
    attachments: int = 100
    response_schema: bool = True

    def unsupported(self, options: EffectiveOptions) -> Iterator[tuple[str, str, str]]:
        """Yields (name of the option, field path, description) of the options that the model does not accept."""
        if options.thinking.mode and options.thinking.mode not in self.thinking:
            yield "thinking", "thinking.mode", _accepts("modes", self.thinking)
        if options.effort and options.effort not in self.efforts:
            yield "effort", "effort", _accepts("levels", self.efforts)
        elif options.effort in ("xhigh", "max") and options.thinking.mode in ("disabled", "between_tools"):
            yield "effort", "effort", f"must be at most HIGH with thinking {options.thinking.mode.upper()}"
        if options.response_schema and not self.response_schema:
            yield "response_schema", "response_schema", "is not supported by the model"
        if options.tool_choice.mode in ("any", "tool") and not self.forced_tool_choice:
            yield "tool_choice", "tool_choice.mode", "is not supported by the model, which decides itself"


def _accepts(what: str, accepted: tuple[str, ...]) -> str:
    named = ", ".join(value.upper() for value in accepted) or "none"
    return f"is not supported by the model; {what} that are: {named}"
