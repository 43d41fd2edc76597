"""Functions as tools, and the errors of the Python client as objects."""

import json
import pickle
from typing import Any, Literal

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError, Tool, Violation


def find(query: str, limit: int = 5, kind: Literal["page", "image"] = "page", tags: list[str] | None = None) -> str:
    """Finds pages.

    By all words of the query.
    """
    return f"{query} {limit} {kind} {tags}"


def untyped(query) -> str:  # type: ignore[no-untyped-def]
    return str(query)


def unknown(query: set[str]) -> str:
    return str(query)


def many(*queries: str) -> str:
    return str(queries)


def test_a_function_becomes_a_tool_by_its_name_docstring_and_types() -> None:
    tool = Tool.of(find)
    assert (tool.name, tool.description) == ("find", "Finds pages.\n\nBy all words of the query.")
    assert json.loads(json.dumps(tool.input_schema)) == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer"},
            "kind": {"enum": ["page", "image"]},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("function", [untyped, unknown, many])
def test_a_function_that_cannot_be_described_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match=function.__name__):
        Tool.of(function)


def test_an_error_is_hashable_and_survives_pickling() -> None:
    error = MetamorphError(
        grpc.StatusCode.NOT_FOUND,
        "SESSION_NOT_FOUND",
        "no session ses_1",
        metadata={"session_id": "ses_1"},
        violations=[Violation("session_id", "is too short")],
        call_id="call-1",
    )
    assert len({error, error}) == 1
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301, our own
    assert vars(copied) == vars(error)
    assert str(copied) == "SESSION_NOT_FOUND: no session ses_1 (session_id: is too short)"


async def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tools have the name find"):
        await MetamorphClient().run_tools("ses_1", "Hello", [find, Tool(many, "find", "", {})])
