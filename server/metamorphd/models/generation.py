"""Options of a reply."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call. `input_schema` is JSON, exactly as the caller wrote it."""

    name: str
    description: str
    input_schema: str


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is auto, any, tool or none; `name` is set only for tool."""

    mode: str = "auto"
    name: str = ""
    disable_parallel_tool_use: bool = False


# The name of the memory tool, which is the provider's.
MEMORY_TOOL = "memory"
THINKING_MODES = ("adaptive", "enabled", "disabled", "between_tools")
# From the least to the most.
EFFORTS = ("low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Thinking:
    """`mode` is one of THINKING_MODES, or empty for the model's default; `budget_tokens` is for enabled."""

    mode: str = ""
    budget_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EffectiveOptions:
    """The options in force; a default means none.

    An empty `model` and a `max_output_tokens` of 0 stand for the server's defaults, an empty `effort` for the model's.
    Schemas are JSON, verbatim. `memory_tool`: the model has the memory tool, as the session says.
    """

    model: str = ""
    max_output_tokens: int = 0
    stop_sequences: tuple[str, ...] = ()
    thinking: Thinking = Thinking()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    response_schema: str = ""
    effort: str = ""
    memory_tool: bool = False


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The options set by a request, with the field names of EffectiveOptions. None is absent: the option is kept."""

    model: str | None = None
    max_output_tokens: int | None = None
    stop_sequences: tuple[str, ...] | None = None
    thinking: Thinking | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    response_schema: str | None = None
    effort: str | None = None

    def over(self, before: EffectiveOptions) -> EffectiveOptions:
        """Returns `before`, with the options that are set replaced."""
        present = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(before, **present)


def contradictions(
    options: EffectiveOptions | GenerationOptions, *, output_tokens: int | None
) -> Iterator[tuple[str, str]]:
    """Yields (field path, description) of options that contradict each other. None is unknown, and contradicts nothing.

    `output_tokens` is the maximum length of the reply.
    """
    tools, choice, thinking = options.tools, options.tool_choice, options.thinking
    if tools is not None and choice is not None and choice.mode in ("any", "tool"):
        if not tools:
            yield "tool_choice.mode", "requires tools, but none are in force"
        elif choice.name and choice.name not in {tool.name for tool in tools}:
            yield "tool_choice.name", "is not among the tools in force"
        if thinking is not None and thinking.mode == "enabled":
            yield "tool_choice.mode", "must not force a tool with thinking ENABLED"
    if thinking is not None and output_tokens is not None and thinking.budget_tokens >= output_tokens:
        yield "thinking.budget_tokens", f"must be less than max_output_tokens, which is {output_tokens}"
