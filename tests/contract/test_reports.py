"""The text of a log line that is reported is constant, so that it holds nothing of a caller's."""

import ast
from collections.abc import Iterator
from pathlib import Path

import metamorphd

REPORTED = {"error", "exception", "critical", "fatal"}
METHODS = REPORTED | {"debug", "info", "warning", "warn", "log"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Yields the calls of loggers, each with the place where it is."""
    root = Path(metamorphd.__path__[0])
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                of = ast.unparse(node.func.value)
                if of == "logger" or "get_logger(" in of or "getLogger(" in of:
                    yield f"{path.relative_to(root)}:{node.lineno}", node


def is_reported(call: ast.Call) -> bool:
    assert isinstance(call.func, ast.Attribute)
    keywords = {keyword.arg for keyword in call.keywords}
    # A line of a library is reported without its text.
    return (call.func.attr in REPORTED or bool(keywords & {"exc_info", None})) and "logger" not in keywords


def test_the_text_of_a_reported_line_is_constant() -> None:
    reported = [(place, call) for place, call in log_calls() if is_reported(call)]
    assert len(reported) > 10
    varying = [place for place, call in reported if not isinstance(call.args[0], ast.Constant)]
    assert varying == []
