"""Collects every SQL statement of the store and checks the vault rule."""

import ast
import importlib
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamorphd import store
from sqlglot import exp, parse_one

STORE = Path(store.__file__).parent
RUNS = {"one", "all", "run"}
TRANSACTIONS = ("Transaction", "SystemTransaction")


@dataclass(frozen=True)
class Statement:
    """A statement, the operation that runs it, and whether that operation is bound to a vault."""

    operation: str
    name: str
    sql: str
    tenant: bool
    function: Callable[..., Any] | None


def statements(engine: str) -> list[Statement]:
    """Returns the statements that run on an engine. Raises AssertionError for SQL that is not a named constant."""
    engines = {folder.name for folder in (STORE / "migrations").iterdir()}
    paths = [path for path in sorted(STORE.rglob("*.py")) if path.parent.name not in engines - {engine}]
    return [statement for path in paths for statement in _of_module(path)]


def _of_module(path: Path) -> Iterator[Statement]:
    module = importlib.import_module(".".join(["metamorphd", *path.relative_to(STORE.parent).with_suffix("").parts]))
    tree = ast.parse(path.read_text())
    found = 0
    for function, kind in _operations(tree):
        for call in _runs(function):
            found += 1
            for name in _names(call.args[0]):
                sql = getattr(module, name)
                operation = getattr(module, function.name, None)
                yield Statement(function.name, name, sql, kind == "Transaction", operation)
    assert found == len(list(_runs(tree))), f"{path.name} runs SQL outside of an operation"


def _operations(tree: ast.Module) -> Iterator[tuple[ast.AsyncFunctionDef, str]]:
    """Yields functions that take a transaction first, methods of classes constructed with one, and the kind of it."""
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef) and (kind := _transaction(node.args.args[:1])):
            yield node, kind
        if isinstance(node, ast.ClassDef):
            made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            kind = _transaction(made[0].args.args[1:2]) if made else ""
            if kind:
                yield from ((item, kind) for item in node.body if isinstance(item, ast.AsyncFunctionDef))


def _transaction(arguments: list[ast.arg]) -> str:
    kinds = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation]
    return next((kind for kind in kinds if kind in TRANSACTIONS), "")


def _runs(tree: ast.AST) -> Iterator[ast.Call]:
    """Yields calls on a transaction, which is always named `tx`."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr in RUNS and ast.unparse(call.func.value) in ("tx", "self._tx"):
            yield call


def _names(argument: ast.expr) -> list[str]:
    if isinstance(argument, ast.IfExp):
        return [*_names(argument.body), *_names(argument.orelse)]
    assert isinstance(argument, ast.Name), f"SQL must be a module's constant, not {ast.unparse(argument)}"
    return [argument.id]


def parsed(sql: str, dialect: str) -> exp.Expr:
    """Returns the syntax tree of a statement."""
    return parse_one(sql, dialect=dialect)


def placeholders(tree: exp.Expr) -> set[str]:
    """Returns the names of a statement's parameters."""
    return {value.name for value in tree.find_all(exp.Placeholder)}


def columns(tree: exp.Expr) -> list[str]:
    """Returns the column names of a statement's result."""
    if isinstance(tree, exp.Query):
        return list(tree.named_selects)
    returning = tree.args.get("returning")
    return [column.alias_or_name for column in returning.expressions] if returning else []


def unbound(tree: exp.Expr, tenant: AbstractSet[str]) -> list[str]:
    """Returns the parts of a statement that may touch rows of another vault; empty if every `tenant` table is bound.

    A table is bound by `vault_id = :vault_id` among the required conditions of the clause that reads, updates or
    deletes its rows. An inserted row is bound by the value itself, or by a vault_id read from a bound table.
    """
    faults = []
    for select in tree.find_all(exp.Select):
        joins = select.args.get("joins") or []
        sources = [select.args.get("from_") or select.args.get("from"), *joins]
        conditions = [
            *_required(select.args.get("where")),
            *(c for join in joins for c in _required(join.args.get("on"))),
        ]
        faults += _unbound_tables([source.this for source in sources if source], conditions, tenant)
    for change in [*tree.find_all(exp.Update), *tree.find_all(exp.Delete)]:
        faults += _unbound_tables([change.this], _required(change.args.get("where")), tenant)
    faults += [
        f"INSERT INTO {insert.this.this.name}" for insert in tree.find_all(exp.Insert) if not _inserts_vault(insert)
    ]
    return faults


def _unbound_tables(sources: list[exp.Expr], conditions: list[exp.Expr], tenant: AbstractSet[str]) -> list[str]:
    touched = {source.alias_or_name: source.name for source in sources if isinstance(source, exp.Table)}
    aliases = {alias for alias, name in touched.items() if name in tenant}
    bound = {column.table for column in map(_bound_column, conditions) if column is not None}
    # An unqualified column can refer to one table only.
    if "" in bound and len(aliases) == 1:
        return []
    return [touched[alias] for alias in sorted(aliases - bound)]


def _required(clause: exp.Expr | None) -> list[exp.Expr]:
    """Returns the conditions that must all hold."""
    if clause is None:
        return []
    condition = clause.this if isinstance(clause, exp.Where) else clause
    while isinstance(condition, exp.Paren):
        condition = condition.this
    if isinstance(condition, exp.And):
        return [*_required(condition.left), *_required(condition.right)]
    return [condition]


def _bound_column(condition: exp.Expr) -> exp.Column | None:
    if isinstance(condition, exp.EQ):
        for column, value in ((condition.left, condition.right), (condition.right, condition.left)):
            if isinstance(column, exp.Column) and column.name == "vault_id" and is_vault(value):
                return column
    return None


def is_vault(value: exp.Expr) -> bool:
    """Returns whether an expression is `:vault_id`, which the transaction supplies."""
    return isinstance(value, exp.Placeholder) and value.name == "vault_id"


def _inserts_vault(insert: exp.Insert) -> bool:
    columns = [column.name for column in insert.this.expressions]
    if "vault_id" not in columns:
        return False
    place = columns.index("vault_id")
    source = insert.expression
    if isinstance(source, exp.Values):
        return all(is_vault(row.expressions[place]) for row in source.expressions)
    # The SELECT itself is checked: its tables are bound, so their vault_id is the caller's.
    value = source.expressions[place]
    return is_vault(value) or (isinstance(value, exp.Column) and value.name == "vault_id")
