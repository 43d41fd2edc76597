"""The conditions of the server's source, and the changes that can be made to each."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Its opposite, and for an order also its other bound.
OPERATORS: dict[type[ast.cmpop], Sequence[type[ast.cmpop]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
CHOICES = (ast.If, ast.While, ast.IfExp, ast.Assert)


@dataclass(frozen=True)
class Change:
    """A changed condition. `path` is relative to the package, `function` empty outside of any.

    `number` counts the same change within a function. `lines` are the first and the last line of the condition, `span`
    its bytes in the file.
    """

    path: str
    function: str
    before: str
    after: str
    number: int
    lines: tuple[int, int]
    span: tuple[int, int]

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the change in `explained.toml`, where lines would move with every edit above."""
        return self.path, self.function, self._text

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]} {self.function}: {self._text}"

    @property
    def _text(self) -> str:
        return f"{self.before} → {self.after}" + (f" ({self.number})" if self.number > 1 else "")

    def applied(self, source: bytes) -> bytes:
        """Returns the changed file. Lines keep their numbers."""
        start, end = self.span
        padding = "\n" * (self.lines[1] - self.lines[0])
        return source[:start] + f"({self.after}{padding})".encode() + source[end:]


def conditions(package: Path, path: Path) -> list[Change]:
    """Returns every change to a file of the package, in the order of their places."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(node: ast.expr) -> tuple[int, int]:
        last, column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return starts[node.lineno - 1] + node.col_offset, starts[last - 1] + column

    changes = [
        (span(place), ast.unparse(changed), function, node, ast.unparse(node))
        for function, node, changed, place in _changes(ast.parse(source), "")
    ]
    seen = Counter[tuple[str, str, str]]()
    found = []
    for _, after, function, node, before in sorted(changes, key=lambda change: change[:2]):
        seen[function, before, after] += 1
        number, lines = seen[function, before, after], (node.lineno, node.end_lineno or node.lineno)
        found.append(Change(str(path.relative_to(package)), function, before, after, number, lines, span(node)))
    return found


def _changes(node: ast.AST, function: str) -> Iterator[tuple[str, ast.expr, ast.expr, ast.expr]]:
    """Yields (function, expression, changed expression, what of the expression is changed)."""
    if isinstance(node, ast.JoinedStr):
        # Python 3.11 has no positions of what is within.
        return
    if isinstance(node, NAMED):
        function = f"{function}.{node.name}".lstrip(".")
    for expression, changed, place in _changed(node):
        yield function, expression, changed, place
    for child in ast.iter_child_nodes(node):
        yield from _changes(child, function)


def _changed(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr, ast.expr]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in OPERATORS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[place] = other()
                yield node, changed, node
        operands = [node.left, *node.comparators]
        for place, operand in enumerate(operands):
            if isinstance(operand, ast.Constant) and (value := _other_value(operand.value)) is not None:
                others: list[ast.expr] = [*operands]
                others[place] = ast.Constant(value)
                yield node, ast.Compare(others[0], node.ops, others[1:]), operand
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values), node
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand, node
    for test in _tests(node):
        # The opposite of a comparison or a `not` is made above.
        is_comparison = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not is_comparison and not isinstance(test, ast.UnaryOp | ast.Constant):
            yield test, ast.UnaryOp(ast.Not(), test), test


def _tests(node: ast.AST) -> Sequence[ast.expr]:
    """Returns the conditions that a node chooses by."""
    if isinstance(node, CHOICES):
        return [node.test]
    if isinstance(node, ast.comprehension):
        return node.ifs
    if isinstance(node, ast.match_case) and node.guard is not None:
        return [node.guard]
    return []


def _other_value(value: object) -> int | float | str | bytes | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return value + b"x" if isinstance(value, bytes) else None
