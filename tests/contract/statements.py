"""Collects every SQL statement of the store and checks the vault rule."""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from metamorphd import store
from metamorphd.store import migrations
from metamorphd.store.sqlite import relevance
from sqlglot import exp, parse_one

STORE = Path(store.__file__).parent
RUNS = {"one", "all", "run"}


@dataclass(frozen=True)
class Statement:
    """A statement, the operation that runs it, and whether that operation is bound to a vault."""

    operation: str
    name: str
    sql: str
    tenant: bool


def statements() -> list[Statement]:
    """Returns the statements of all store operations. Raises AssertionError for SQL that is not a named constant."""
    return [statement for path in sorted(STORE.rglob("*.py")) for statement in _of_module(path)]


def _of_module(path: Path) -> Iterator[Statement]:
    module = importlib.import_module(".".join(["metamorphd", *path.relative_to(STORE.parent).with_suffix("").parts]))
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.AsyncFunctionDef) or not function.args.args:
            continue
        kind = ast.unparse(function.args.args[0].annotation or ast.Constant(None))
        if kind not in ("Transaction", "SystemTransaction"):
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in RUNS:
                for name in _names(call.args[0]):
                    yield Statement(function.name, name, getattr(module, name), kind == "Transaction")


def _names(argument: ast.expr) -> list[str]:
    if isinstance(argument, ast.IfExp):
        return [*_names(argument.body), *_names(argument.orelse)]
    assert isinstance(argument, ast.Name), f"SQL must be a module's constant, not {ast.unparse(argument)}"
    return [argument.id]


def migrated() -> apsw.Connection:
    """Returns an empty database with the latest schema."""
    connection = apsw.Connection(":memory:")
    relevance.register(connection)
    for _, script in migrations.load("sqlite"):
        connection.execute(script)
    return connection


def tables() -> dict[str, list[tuple[Any, ...]]]:
    """Returns (column, position in the primary key or 0) of each table. A search index counts as one, without a key."""
    connection = migrated()
    # The shadow tables of a search index are internal to FTS5.
    listed = "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND name NOT LIKE 'sqlite_%'"
    names = [str(name) for (name,) in connection.execute(listed)]
    found = {
        name: connection.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall() for name in names
    }
    connection.close()
    return found


def parsed(sql: str) -> exp.Expr:
    """Returns the syntax tree of a statement."""
    return parse_one(sql, dialect="sqlite")


def unbound(tree: exp.Expr) -> list[str]:
    """Returns the parts of a statement that may touch rows of another vault; empty if every tenant table is bound.

    A table is bound by `vault_id = :vault_id` among the required conditions of the clause that reads, updates or
    deletes its rows. An inserted row is bound by the value itself, or by a vault_id read from a bound table.
    """
    tenant = set(tables())
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


def _unbound_tables(sources: list[exp.Expr], conditions: list[exp.Expr], tenant: set[str]) -> list[str]:
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
