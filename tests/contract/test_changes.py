"""Whatever changes what callers can read appends to the vault's log."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import metamorphd
import pytest
from metamorphd.store.changes import append_change

from tests.support.engines import ENGINES
from tests.support.statements import STORE, statements

PACKAGE = Path(metamorphd.__file__).parent
# Written by others than the housekeeping and the servicers' own calls, or without a change. Each with the reason.
SILENT = {
    "add_pending_words": "indexes what is stored",
    "admit_call": "what a running turn reserves",
    "append_events": "deltas: the end of the turn is a change",
    "compact_changes": "shortens the log itself",
    "delete_entries": "deletes from the log itself",
    "count_deleted_usage": "the usage of a turn whose session's deletion was a change",
    "erase_vault_step": "erases what was deleted, its log included",
    "discard_import": "what nobody has seen",
    "index_earlier_messages": "indexes what is stored",
    "postpone_erasure": "belongs to a deletion, which was a change",
    "refold_messages": "indexes what is stored",
    "stage_attachment": "hidden until the import is complete, which is a change",
    "stage_chunk": "hidden until the import is complete, which is a change",
    "stage_step": "hidden until the import is complete, which is a change",
    "add_lists": "the words of what is staged",
    "reserve_numbers": "belongs to what is staged",
    "use_memories": "that they were used changes nothing of them",
}
# Across vaults, so that there is no log to append to.
SILENT_ACROSS_VAULTS = {
    "end_filing": "the ledger, which is of the server",
    "enter_entries": "the ledger, which is of the server; what is deleted again is in the log of the vault",
    "queue_entries": "the ledger, which is of the server",
    "put_ledger_position": "the ledger, which is of the server",
    "prune_attachments": "what was not sent for a day expires",
    "prune_events": "deltas",
    "prune_operations": "what ended long ago",
    "prune_requests": "what was asked for, not what is stored",
    "rewrap_data_keys": "the same data keys, wrapped by another key",
    "renew_leases": "which server runs a turn",
}
WRITERS = {"write", "change"}
CHANGES_ROWS = re.compile(r"\s*(WITH\b.*?\))?\s*(INSERT|UPDATE|DELETE)\b", re.DOTALL)


def written(tree: ast.AST, methods: set[str]) -> Iterator[str]:
    """Yields the names of the operations that a module has the database write."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in methods:
            for argument in call.args[:1]:
                # What it is wrapped in makes no difference.
                named = argument.args[0] if isinstance(argument, ast.Call) and argument.args else argument
                if isinstance(named, ast.Name):
                    yield named.id


def operations(methods: set[str]) -> set[str]:
    paths = [path for path in PACKAGE.rglob("*.py") if STORE not in path.parents]
    return {name for path in paths for name in written(ast.parse(path.read_text()), methods)} - {"operation", "prune"}


# A function of the store, by its module and its name.
Function = tuple[Path, str]


@cache
def calls() -> dict[Function, set[str]]:
    """Returns the names that each function of the store uses."""
    return {
        (path, function.name): {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        for path in STORE.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.AsyncFunctionDef)
    }


def named(name: str, used_in: Path) -> list[Function]:
    """Returns the functions that a name stands for in a module. Private ones are its own."""
    if (used_in, name) in calls() or name.startswith("_"):
        return [function for function in calls() if function == (used_in, name)]
    return [function for function in calls() if function[1] == name]


def reached(name: str) -> set[str]:
    """Returns the names of the functions of the store that an operation may run, itself included."""
    found: set[Function] = set()
    left = named(name, PACKAGE)
    while left:
        if (function := left.pop()) not in found:
            found.add(function)
            left += [each for used in calls()[function] for each in named(used, function[0])]
    return {name for _, name in found}


def changing() -> set[str]:
    """Returns the functions that run a statement that changes rows."""
    return {each.operation for each in statements(ENGINES[0].name) if CHANGES_ROWS.match(each.sql)}


def test_every_operation_that_changes_rows_appends_to_the_log_or_has_a_reason_not_to() -> None:
    names = operations(WRITERS)
    assert {"suspend_vault", "create_session", "finish_turn", "update_vault", "append_events", "erase_step"} <= names
    silent = {name for name in names if reached(name) & changing() and append_change.__name__ not in reached(name)}
    assert silent == SILENT.keys()


def test_what_is_written_across_vaults_has_a_reason_not_to_be_in_a_log() -> None:
    crossing = {each.operation for each in statements(ENGINES[0].name) if not each.tenant}
    assert crossing & changing() == SILENT_ACROSS_VAULTS.keys()


@pytest.mark.parametrize("method", sorted(WRITERS))
def test_an_operation_that_appends_nothing_is_found_however_it_is_written(method: str) -> None:
    source = f"async def f(self): await self.database.{method}(revised(forget), scope)"
    assert list(written(ast.parse(source), WRITERS)) == ["forget"]
