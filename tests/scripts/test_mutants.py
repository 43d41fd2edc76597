"""`make mutants` finds what the tests miss, and says so."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.mutants.__main__ import EXPLAINED, explained, main
from scripts.mutants.conditions import conditions
from scripts.mutants.covering import PACKAGE
from tests.support.paths import ROOT

# At the limit both branches return the same, so that `<=` changes nothing.
MODULE = """
def first(items, limit):
    if len(items) < limit:
        return items
    return items[:limit]
"""
TESTS = """
from metamorphd.first import first

def test_the_first_items_are_returned():
    assert first([1, 2, 3], 2) == [1, 2]
    assert first([1], 2) == [1]
"""
EQUIVALENT = "len(items) < limit → len(items) <= limit"
REASON = f"""
[[explained]]
path = "first.py"
function = "first"
change = "{EQUIVALENT}"
reason = "both return all items"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Returns a source tree with a package of one function, and a test of it."""
    files = {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "server/metamorphd/__init__.py": "",
        "server/metamorphd/first.py": MODULE,
        "tests/test_first.py": TESTS,
    }
    for name, text in files.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


def run(tree: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--tree", str(tree), "--jobs", "1", "--seed", "1", *arguments])


def explain(tree: Path, text: str) -> None:
    (tree / EXPLAINED).parent.mkdir(parents=True)
    (tree / EXPLAINED).write_text(text)


def test_a_change_that_a_test_notices_is_found_and_one_without_effect_survives(tree: Path) -> None:
    result = run(tree)
    assert result.exit_code == 1, result.output
    assert f"SURVIVED first.py:3 first: {EQUIVALENT}\n" in result.stdout
    assert "1 of 2 changes were found, 0 are explained" in result.stdout
    assert "seed 1" in result.stderr
    assert (tree / PACKAGE / "first.py").read_text() == MODULE


def test_a_test_that_fails_by_chance_hides_no_other(tree: Path) -> None:
    # The quicker of the two, so it is the first to run; it fails once.
    chance = f"""
from pathlib import Path

from metamorphd import first as module

def test_that_fails_once():
    module.first([], 2)
    ran = Path(__file__).with_suffix(".ran")
    if Path(module.__file__).read_text() != {MODULE!r} and not ran.exists():
        ran.touch()
        raise AssertionError
"""
    slow = TESTS.replace("    assert", "    import time; time.sleep(0.2)\n    assert", 1)
    (tree / "tests" / "test_first.py").write_text(slow + chance)
    result = run(tree, "--json", "--change", "→ len(items) >= limit")
    (tried,) = json.loads(result.stdout)
    assert "test_the_first_items_are_returned" in tried["found"]


def test_a_survivor_that_is_explained_is_none(tree: Path) -> None:
    explain(tree, REASON)
    result = run(tree, "--json")
    assert result.exit_code == 0, result.output
    results = {each["change"]["after"]: each for each in json.loads(result.stdout)}
    assert results["len(items) <= limit"]["explained"] == "both return all items"
    assert "test_the_first_items_are_returned" in results["len(items) >= limit"]["found"]


def test_an_explanation_of_nothing_is_an_error(tree: Path) -> None:
    explain(tree, REASON.replace("<=", "=="))
    result = run(tree)
    assert result.exit_code == 2
    assert "first.py, first, len(items) < limit → len(items) == limit" in result.output


def test_a_run_is_limited_to_paths_and_changes(tree: Path) -> None:
    assert "0 of 0 changes" in run(tree, "--only", "fir").stdout
    assert "0 of 0 changes" in run(tree, "--without", "first.py").stdout
    assert "1 of 1 changes were found" in run(tree, "--only", "first.py", "--change", "→ len(items) >= limit").stdout


def test_every_explanation_in_this_tree_is_of_a_change() -> None:
    package = ROOT / PACKAGE
    changes = [change for path in package.rglob("*.py") for change in conditions(package, path)]
    assert all(explained(ROOT / EXPLAINED, changes).values())


def changed(tmp_path: Path, text: str) -> set[str]:
    (tmp_path / "module.py").write_text(text)
    changes = conditions(tmp_path, tmp_path / "module.py")
    results = {change.applied(text.encode()).decode() for change in changes}
    assert len(results) == len(changes)
    assert {result.count("\n") for result in results} <= {text.count("\n")}
    return results


@pytest.mark.parametrize(
    ("condition", "changes"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a >= b", {"a > b", "a < b"}),
        ("a == 7", {"a != 7", "a == 8"}),
        ("a in 'b'", {"a not in 'b'", "a in 'bx'"}),
        ("a is not None", {"a is None"}),
        ("not a", {"a"}),
        ("a and b", {"a or b", "not (a and b)"}),
        ("a", {"not a"}),
        ("f(é, a)", {"not f(é, a)"}),
        ("f'{a == b}'", {"not f'{a == b}'"}),
    ],
)
def test_a_condition_is_replaced_by_its_opposite_or_its_neighbour(
    tmp_path: Path, condition: str, changes: set[str]
) -> None:
    for before, after in (("if ", ":\n    pass\n"), ("x = [a for a in b if ", "]\n"), ("x = é if ", " else 3\n")):
        assert changed(tmp_path, f"{before}{condition}{after}") == {f"{before}({change}){after}" for change in changes}


def test_the_same_change_in_a_function_is_counted(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f(a):\n    x = a < 0\n    return a < 0\n")
    keys = [change.key for change in conditions(tmp_path, tmp_path / "module.py")]
    assert [key[2] for key in keys if "1" in key[2]] == ["a < 0 → a < 1", "a < 0 → a < 1 (2)"]
    assert len(set(keys)) == len(keys)


def test_a_condition_of_several_lines_keeps_them(tmp_path: Path) -> None:
    assert changed(tmp_path, "x = (\n    a\n    == b\n)\ny = 1\n") == {"x = (\n    (a != b\n)\n)\ny = 1\n"}
