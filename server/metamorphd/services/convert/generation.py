"""How a reply is to be generated: what SendMessage and RegenerateReply say of it."""

from collections.abc import Iterable

from metamorph.chat.v1 import chat_service_pb2, generation_pb2

from metamorphd.errors import ContentTooLarge, FieldViolation, RequestInvalid
from metamorphd.llm.json_object import json_object
from metamorphd.models.generation import Options, Thinking, Tool, ToolChoice

CHOICES = {
    generation_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    generation_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    generation_pb2.TOOL_CHOICE_MODE_ANY: "any",
    generation_pb2.TOOL_CHOICE_MODE_TOOL: "tool",
    generation_pb2.TOOL_CHOICE_MODE_NONE: "none",
}
THINKING = {
    generation_pb2.THINKING_MODE_ADAPTIVE: "adaptive",
    generation_pb2.THINKING_MODE_ENABLED: "enabled",
    generation_pb2.THINKING_MODE_DISABLED: "disabled",
}


def options_from_proto(
    request: chat_service_pb2.SendMessageRequest | chat_service_pb2.RegenerateReplyRequest, *, limit_bytes: int
) -> Options:
    """The options of a request that has passed the rules of its proto.

    Raises RequestInvalid for what is no schema, ContentTooLarge if tools and schemas are larger than `limit_bytes`.
    """
    if sum(tool.ByteSize() for tool in request.tools) + len(request.response_schema) > limit_bytes:
        raise ContentTooLarge(limit_bytes=limit_bytes)
    schemas = [(f"tools[{place}].input_schema", tool.input_schema) for place, tool in enumerate(request.tools)]
    if request.response_schema:
        schemas.append(("response_schema", request.response_schema))
    violations = list(_violations(schemas))
    if violations:
        raise RequestInvalid(violations=violations)
    return Options(
        model=request.model,
        max_output_tokens=request.max_output_tokens,
        stop_sequences=tuple(request.stop_sequences),
        thinking=_thinking(request.thinking),
        tools=tuple(Tool(tool.name, tool.description, tool.input_schema) for tool in request.tools),
        tool_choice=_tool_choice(request.tool_choice) if request.HasField("tool_choice") else None,
        response_schema=request.response_schema,
    )


def _thinking(thinking: generation_pb2.ThinkingConfig) -> Thinking | None:
    mode = THINKING.get(thinking.mode)
    return None if mode is None else Thinking(mode, thinking.budget_tokens)


def _tool_choice(choice: generation_pb2.ToolChoice) -> ToolChoice:
    return ToolChoice(CHOICES[choice.mode], choice.name, choice.disable_parallel_tool_use)


def _violations(schemas: Iterable[tuple[str, str]]) -> Iterable[FieldViolation]:
    for field, schema in schemas:
        try:
            json_object(schema)
        except ValueError:
            yield FieldViolation(field, "is no JSON object")
