"""The rules of the Messages API that a conversation can break, as its documentation states them.

Stricter than the provider where it would drop something without an error: what may not be sent is refused.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

# By model: modes of thinking, the mode without one, levels of effort, whether a tool can be forced, most attachments,
# most pages of PDFs: https://platform.claude.com/docs/en/build-with-claude/pdf-support.
LEVELS = ("low", "medium", "high", "xhigh", "max")
MODELS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], bool, int, int]] = {
    "claude-fable-5-2": (("adaptive",), "adaptive", LEVELS, False, 600, 600),
    "claude-opus-5-5": (("adaptive",), "adaptive", LEVELS, False, 600, 600),
    "claude-sonnet-5-5": (("adaptive", "between_tools"), "adaptive", LEVELS, False, 600, 600),
    "claude-haiku-5-5": (("adaptive", "disabled"), "adaptive", LEVELS, True, 600, 600),
    "claude-sonnet-4-5": (("enabled", "disabled"), "disabled", (), True, 100, 100),
}
# https://platform.claude.com/docs/en/build-with-claude/compaction.
WITHOUT_SUMMARIES = {"claude-sonnet-4-5"}
LARGEST_REQUEST = 32_000_000
BLANK = " \t\n\f\r"
# Of an image or document in base64.
LARGEST_SOURCE = {"image": 10 * 1024 * 1024, "document": 32_000_000}
# How a whole file of a media type ends, of those whose end does not depend on their content.
ENDS = {
    "image/png": b"IEND\xae\x42\x60\x82",
    "image/jpeg": b"\xff\xd9",
    "image/gif": b"\0\x3b",
    "application/pdf": b"%%EOF",
}
IDENTIFIER = re.compile(r"[a-zA-Z0-9_-]+")
BETAS = {"compaction": "compact-2026-01-12"}


def sign(body: Mapping[str, Any], reply: Sequence[Mapping[str, Any]], thought: str) -> str:
    """Returns the signature of thinking that follows the blocks of `reply`, in a reply to the request `body`."""
    return _signature(body, body["messages"], reply, thought)


def broken(body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Returns the first rule that a request breaks, in the provider's way to say so, or None."""
    return next(_broken(body, headers), None)


def _broken(body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    messages = body["messages"]
    if any(_summary(message["content"]) is not None for message in messages) and "context_management" not in body:
        yield "`compaction` blocks require a `compact_20260112` strategy in `context_management.edits`"
    if len(json.dumps(body)) > LARGEST_REQUEST:
        yield "Request exceeds the maximum size"
    if not messages or messages[0]["role"] != "user":
        yield "messages: first message must use the user role"
    elif messages[-1]["role"] != "user":
        yield "messages: the conversation must end with a user message"
    for number, (message, after) in enumerate(pairwise(messages), start=1):
        if message["role"] == after["role"] == "assistant":
            yield f"messages.{number}: two messages of the assistant"
    for number, message in enumerate(messages):
        yield from _of_message(body, number, message, headers)
    yield from _of_options(body)
    yield from _of_tools(body.get("tools", []))


def _of_tools(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """https://platform.claude.com/docs/en/agents-and-tools/tool-use/memory-tool."""
    names = [tool.get("name") for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."
    for number, tool in enumerate(tools):
        if tool.get("type", "custom") == "custom":
            if "input_schema" not in tool:
                yield f"tools.{number}.custom.input_schema: Field required"
        elif tool != {"type": "memory_20250818", "name": "memory"}:
            yield f"tools.{number}: Input tag '{tool['type']}' found using 'type', or its fields, are not as expected"


def _of_options(body: Mapping[str, Any]) -> Iterator[str]:
    modes, default, levels, forced, most, most_pages = MODELS[body["model"]]
    thinking, choice = body.get("thinking", {}), body.get("tool_choice", {"type": "auto"})["type"]
    mode, effort = thinking.get("type", default), body.get("output_config", {}).get("effort")
    if mode not in modes:
        yield f'"thinking.type.{mode}" is not supported for this model'
    if mode == "enabled" and not 1024 <= thinking["budget_tokens"] < body.get("max_tokens", 2**31):
        yield "thinking.budget_tokens: must be at least 1024 and less than max_tokens"
    if thinking and mode in ("disabled", "between_tools") and thinking.keys() != {"type"}:
        yield f"thinking: unexpected fields with {mode}"
    if effort is not None and effort not in levels:
        yield f"output_config.effort: {effort} is not supported for this model"
    if effort in ("xhigh", "max") and mode in ("disabled", "between_tools"):
        yield f"output_config.effort: {effort} is not supported with {mode}"
    if choice in ("any", "tool") and not (forced and mode != "enabled"):
        yield f'tool_choice: type "{choice}" is not supported for this model'
    if choice == "none" and body["tool_choice"].keys() != {"type"}:
        yield "tool_choice.none: extra inputs are not permitted"
    if choice != "auto" and not body.get("tools"):
        yield "tool_choice: may only be specified with tools"
    blocks = [block for message in body["messages"] for _, block in _blocks(message["content"])]
    attachments = sum(block["type"] in LARGEST_SOURCE for block in blocks)
    pages = sum(_pages(block["source"]) for block in blocks if block["type"] == "document")
    if "context_management" in body and body["model"] in WITHOUT_SUMMARIES:
        yield "context_management: compact_20260112 is not supported for this model"
    if attachments > most:
        yield f"too many images and documents: {attachments} > {most}"
    if pages > most_pages:
        yield f"A maximum of {most_pages} PDF pages may be provided."


def _of_message(
    body: Mapping[str, Any], number: int, message: Mapping[str, Any], headers: Mapping[str, str]
) -> Iterator[str]:
    content, messages = message["content"], body["messages"]
    where = f"messages.{number}"
    if not content:
        yield f"{where}: content must not be empty"
    for path, block in _blocks(content):
        yield from (f"{where}.{path}{fault}" for fault in _of_block(block, headers))
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    enabled = body.get("thinking", {}).get("type") == "enabled"
    if calls and enabled and number == len(messages) - 2 and "thinking" not in content[0]["type"]:
        # https://platform.claude.com/docs/en/build-with-claude/thinking-tool-workflows: a loop is one turn of its own.
        yield f"{where}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`"
    if calls:
        answer = messages[number + 1]["content"] if number + 1 < len(messages) else []
        results = [block["tool_use_id"] for block in answer if block["type"] == "tool_result"]
        if sorted(calls) != sorted(results):
            yield f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {calls}"
    results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
    asked = [block.get("id") for block in messages[number - 1]["content"]] if number else []
    if set(results) - set(asked):
        yield f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {results}"
    if any(block["type"] == "tool_result" for block in content[len(results) :]):
        yield f"{where}: `tool_result` blocks must come first"
    for place, block in enumerate(content):
        if block["type"] in ("thinking", "redacted_thinking"):
            thought = block.get("thinking", "")
            signed = block["signature"] if block["type"] == "thinking" else block["data"]
            if signed != _signature(body, messages[:number], content[:place], thought):
                yield f"{where}.content.{place}: Invalid `signature`: the block is bound to a different conversation"


def _blocks(content: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, block in enumerate(content):
        yield f"content.{place}", block
        if block["type"] == "tool_result":
            for inner, part in enumerate(block["content"]):
                yield f"content.{place}.tool_result.content.{inner}", part


def _summary(content: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the place of the last summary in a message."""
    places = [place for place, block in enumerate(content) if block["type"] == "compaction"]
    return places[-1] if places else None


def _of_block(block: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    kind = block["type"]
    if kind == "text" and not block["text"].strip(BLANK):
        yield ": text content blocks must contain non-whitespace text"
    if kind in BETAS and BETAS[kind] not in headers.get("anthropic-beta", ""):
        yield f": {kind} blocks require a beta header"
    if kind in LARGEST_SOURCE and len(block["source"]["data"]) > LARGEST_SOURCE[kind]:
        yield f".{kind}.source.base64: {kind} exceeds the maximum size"
    if kind in LARGEST_SOURCE and (fault := _unreadable(block["source"])):
        yield f".{kind}.source: {fault}"
    for field in ("id", "name", "tool_use_id"):
        if field in block and not IDENTIFIER.fullmatch(block[field]):
            yield f".{kind}.{field}: String should match pattern '^{IDENTIFIER.pattern}$'"
    if kind == "tool_result" and block.get("is_error") and any(part["type"] != "text" for part in block["content"]):
        yield ".tool_result: all content must be type `text` if `is_error` is true"


def _unreadable(source: Mapping[str, Any]) -> str | None:
    """https://platform.claude.com/docs/en/build-with-claude/pdf-support: no passwords, no encryption."""
    if source["type"] == "text":
        return None if source["data"].strip(BLANK) else "text documents must contain non-whitespace text"
    data = base64.b64decode(source["data"])
    if ENDS.get(source["media_type"], b"") not in data:
        return "Could not process the file"
    return "The PDF specified is password protected." if b"/Encrypt" in data else None


def _pages(source: Mapping[str, Any]) -> int:
    return base64.b64decode(source["data"]).count(b"/Type/Page/") if source["type"] == "base64" else 0


def _signature(
    body: Mapping[str, Any], messages: Sequence[Any], reply: Sequence[Mapping[str, Any]], thought: str
) -> str:
    """Returns what the provider alone could compute; the fake has no secret. A summary replaces what precedes it."""
    summarized = [number for number, message in enumerate(messages) if _summary(message["content"]) is not None]
    if (start := _summary(reply)) is not None:
        messages, reply = (), reply[start:]
    elif summarized:
        first, *others = messages[summarized[-1] :]
        messages = (first | {"content": first["content"][_summary(first["content"]) :]}, *others)
    prefix = [body["model"], body.get("system"), body.get("tools"), list(messages), list(reply), thought]
    return hashlib.sha256(json.dumps(prefix, sort_keys=True).encode()).hexdigest()
