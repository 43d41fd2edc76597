"""The options of a turn as they are stored: a JSON object without what is as usual."""

from dataclasses import asdict, fields

import orjson

from metamorphd.models import Options, Thinking, Tool, ToolChoice

USUAL = Options()


def encode_options(options: Options) -> str:
    """Options as they are stored; the model aside, which the turn names itself."""
    named = {field.name for field in fields(Options) if getattr(options, field.name) != getattr(USUAL, field.name)}
    told = asdict(options)
    return orjson.dumps({name: told[name] for name in sorted(named - {"model"})}).decode()


def decode_options(text: str) -> Options:
    """What `encode_options` was given, without a model."""
    told = orjson.loads(text)
    if not told:
        return USUAL
    return Options(
        max_output_tokens=told.get("max_output_tokens", 0),
        stop_sequences=tuple(told.get("stop_sequences", ())),
        thinking=Thinking(**told["thinking"]) if "thinking" in told else None,
        tools=tuple(Tool(**tool) for tool in told.get("tools", ())),
        tool_choice=ToolChoice(**told["tool_choice"]) if "tool_choice" in told else None,
        response_schema=told.get("response_schema", ""),
    )
