"""Tools that the model calls: functions, and the loop that answers its calls."""

import asyncio
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from metamorph_client.chat.v1 import generation_pb2
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions, ToolList
from metamorph_client.chat.v1.message_pb2 import (
    ContentBlock,
    TextBlock,
    ToolResultBlock,
    ToolResultPart,
    ToolUseBlock,
)
from metamorph_client.chat.v1.turn_pb2 import STOP_REASON_TOOL_USE, TURN_STATUS_COMPLETED, TurnFinished

SIMPLE_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class Tool:
    """A function that the model can call, with its description for it.

    `input_schema` is the JSON schema of its arguments, which are given by keyword. What it returns is sent as text, or
    as JSON if it is none. It may be async; otherwise it runs on a thread.
    """

    function: Callable[..., Any]
    name: str
    description: str
    input_schema: Mapping[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Tool":
        """Returns the tool of a function, from its name, docstring and type hints.

        Raises TypeError for a parameter whose type is none of str, int, float, bool, Literal, list, dict and None, or a
        union of these.
        """
        name = getattr(function, "__name__", type(function).__name__)
        hints = typing.get_type_hints(function)
        properties, required = {}, []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{name}({parameter}) cannot be given by keyword: make a Tool with an input_schema")
            if parameter.name not in hints:
                raise TypeError(f"{name}({parameter.name}) has no type: add a type hint, or make a Tool")
            properties[parameter.name] = _schema(hints[parameter.name], f"{name}({parameter.name})")
            if parameter.default is parameter.empty:
                required.append(parameter.name)
        schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        return cls(function, name, inspect.getdoc(function) or "", schema)

    async def run(self, tool_input: Mapping[str, Any]) -> str:
        """Returns what the function does as text. Raises what it raises."""
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(**tool_input)
        else:
            result = await asyncio.to_thread(self.function, **tool_input)
            result = await result if inspect.isawaitable(result) else result
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


class ToolLoop:
    """The tools of one conversation with a model, and the answers to its calls."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]]) -> None:
        self._tools: dict[str, Tool] = {}
        for each in tools:
            tool = each if isinstance(each, Tool) else Tool.of(each)
            if tool.name in self._tools:
                raise ValueError(f"two tools have the name {tool.name}: make a Tool with another one")
            self._tools[tool.name] = tool

    def offered_by(self, options: GenerationOptions | None) -> GenerationOptions:
        """Returns options with these tools."""
        offered = GenerationOptions()
        offered.CopyFrom(options or GenerationOptions())
        values = [
            generation_pb2.Tool(
                name=tool.name, description=tool.description, input_schema=json.dumps(tool.input_schema)
            )
            for tool in self._tools.values()
        ]
        offered.tools.CopyFrom(ToolList(values=values))
        return offered

    async def results(self, finished: TurnFinished) -> list[ContentBlock]:
        """Returns the results of the calls that a turn ended with, in their order. They run at the same time."""
        if finished.status != TURN_STATUS_COMPLETED or finished.stop_reason != STOP_REASON_TOOL_USE:
            return []
        calls = [block.tool_use for block in finished.message.content if block.HasField("tool_use")]
        return list(await asyncio.gather(*map(self._result, calls)))

    async def _result(self, call: ToolUseBlock) -> ContentBlock:
        try:
            text, failed = await self._run(call), False
        except Exception as exc:
            text, failed = str(exc) or type(exc).__name__, True
        # A block of text must have some.
        content = [ToolResultPart(text=TextBlock(text=text))] if text.strip() else []
        result = ToolResultBlock(tool_use_id=call.tool_use_id, content=content, is_error=failed)
        return ContentBlock(tool_result=result)

    async def _run(self, call: ToolUseBlock) -> str:
        if call.name not in self._tools:
            raise LookupError(f"there is no tool {call.name}")
        return await self._tools[call.name].run(json.loads(call.input or "{}"))


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """Returns the JSON schema of a type. Raises TypeError if there is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SIMPLE_TYPES:
        return {"type": SIMPLE_TYPES[hint]}
    if hint is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list or hint is list:
        return {"type": "array"} | ({"items": _schema(arguments[0], where)} if arguments else {})
    if origin is dict or hint is dict:
        return {"type": "object"} | ({"additionalProperties": _schema(arguments[1], where)} if arguments else {})
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, where) for each in arguments]}
    raise TypeError(f"{where} has type {hint}, for which there is no JSON schema: make a Tool with an input_schema")
