"""Converts generation options from protobuf."""

from collections.abc import Iterator

from metamorph_client.chat.v1 import generation_pb2

from metamorphd.errors import ContentTooLarge, FieldViolation, RequestInvalid
from metamorphd.llm.json_object import json_object
from metamorphd.models.generation import GenerationOptions, Thinking, Tool, ToolChoice, contradictions

CHOICES = {
    generation_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    generation_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    generation_pb2.TOOL_CHOICE_MODE_ANY: "any",
    generation_pb2.TOOL_CHOICE_MODE_TOOL: "tool",
    generation_pb2.TOOL_CHOICE_MODE_NONE: "none",
}
THINKING = {
    generation_pb2.THINKING_MODE_UNSPECIFIED: "",
    generation_pb2.THINKING_MODE_ADAPTIVE: "adaptive",
    generation_pb2.THINKING_MODE_ENABLED: "enabled",
    generation_pb2.THINKING_MODE_DISABLED: "disabled",
    generation_pb2.THINKING_MODE_BETWEEN_TOOLS: "between_tools",
}
EFFORTS = {
    generation_pb2.EFFORT_UNSPECIFIED: "",
    generation_pb2.EFFORT_LOW: "low",
    generation_pb2.EFFORT_MEDIUM: "medium",
    generation_pb2.EFFORT_HIGH: "high",
    generation_pb2.EFFORT_XHIGH: "xhigh",
    generation_pb2.EFFORT_MAX: "max",
}


def options_from_proto(proto: generation_pb2.GenerationOptions, *, limit_bytes: int) -> GenerationOptions:
    """Returns the options of a request that has passed the rules of its proto; absent fields are None.

    Raises RequestInvalid for a schema that is not a JSON object and for options that contradict each other,
    ContentTooLarge if tools and schemas are larger than `limit_bytes`.
    """
    if sum(tool.ByteSize() for tool in proto.tools.values) + len(proto.response_schema) > limit_bytes:
        raise ContentTooLarge(limit_bytes=limit_bytes)
    options = GenerationOptions(
        model=proto.model if proto.HasField("model") else None,
        max_output_tokens=proto.max_output_tokens if proto.HasField("max_output_tokens") else None,
        stop_sequences=tuple(proto.stop_sequences.values) if proto.HasField("stop_sequences") else None,
        thinking=_thinking(proto.thinking) if proto.HasField("thinking") else None,
        tools=tuple(map(_tool, proto.tools.values)) if proto.HasField("tools") else None,
        tool_choice=_tool_choice(proto.tool_choice) if proto.HasField("tool_choice") else None,
        response_schema=proto.response_schema if proto.HasField("response_schema") else None,
        effort=EFFORTS[proto.effort] if proto.HasField("effort") else None,
    )
    violations = [FieldViolation(f"options.{path}", description) for path, description in _faults(options)]
    if violations:
        raise RequestInvalid(violations=violations)
    return options


def _tool(tool: generation_pb2.Tool) -> Tool:
    return Tool(tool.name, tool.description, tool.input_schema)


def _thinking(thinking: generation_pb2.ThinkingConfig) -> Thinking:
    return Thinking(THINKING[thinking.mode], thinking.budget_tokens)


def _tool_choice(choice: generation_pb2.ToolChoice) -> ToolChoice:
    return ToolChoice(CHOICES[choice.mode], choice.name, choice.disable_parallel_tool_use)


def _faults(options: GenerationOptions) -> Iterator[tuple[str, str]]:
    """Yields (field path, description) of the errors that the request alone reveals."""
    schemas = [
        (f"tools.values[{place}].input_schema", tool.input_schema) for place, tool in enumerate(options.tools or ())
    ]
    if options.response_schema:
        schemas.append(("response_schema", options.response_schema))
    for path, schema in schemas:
        try:
            json_object(schema)
        except ValueError:
            yield path, "is not a JSON object"
    # 0 stands for the server's maximum, which is not known here.
    yield from contradictions(options, output_tokens=options.max_output_tokens or None)
