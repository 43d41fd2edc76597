"""How a reply is generated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may ask for; `input_schema` is JSON, as the caller wrote it."""

    name: str
    description: str
    input_schema: str


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is auto, any, tool or none; `name` goes with tool."""

    mode: str
    name: str = ""
    disable_parallel_tool_use: bool = False


@dataclass(frozen=True, slots=True)
class Thinking:
    """`mode` is adaptive, enabled or disabled; `budget_tokens` goes with enabled."""

    mode: str
    budget_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How a reply is generated. Empty, 0 and None leave it to whatever holds then; schemas are JSON, verbatim."""

    model: str = ""
    max_output_tokens: int = 0
    stop_sequences: tuple[str, ...] = ()
    thinking: Thinking | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_schema: str = ""
