"""Imports point downward, and each kind of code has one place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import metamorphd

from tests.support.paths import ROOT

PACKAGE = Path(metamorphd.__file__).parent


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    return subprocess.run(
        [*command, "--config", str(config), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_imports_point_downward() -> None:
    linted = lint(ROOT / ".importlinter")
    assert linted.returncode == 0, linted.stdout
    assert " 0 broken" in linted.stdout


def test_an_upward_import_is_detected(tmp_path: Path) -> None:
    upside_down = tmp_path / "upside-down"
    text = (ROOT / ".importlinter").read_text()
    upside_down.write_text(
        text.replace(
            "    chat | backups | replicas | watching | secrets | audit | vault_states\n", "    CHAT\n"
        ).replace("    services\n", "    chat\n", 1)
    )
    upside_down.write_text(upside_down.read_text().replace("    CHAT\n", "    services\n"))
    linted = lint(upside_down)
    assert linted.returncode == 1
    assert "metamorphd.chat" in linted.stdout


def reads_environment(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb") for node in ast.walk(tree)
    )


def test_only_the_settings_read_the_environment() -> None:
    reading = [path for path in PACKAGE.rglob("*.py") if reads_environment(ast.parse(path.read_text()))]
    assert reading == [PACKAGE / "settings" / "environment.py"]


def ours(path: Path) -> set[str]:
    """Returns the test, harness and benchmark modules that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    return {str(node.module) for node in nodes if str(node.module).partition(".")[0] in ("bench", "harness", "tests")}


def may_import(path: Path, module: str) -> bool:
    """Returns whether a module is `tests.support`, a helper in the file's own package, or the subject of its tests."""
    room = ".".join(path.relative_to(ROOT).parent.parts)
    if room.startswith(("bench", "harness")):
        return module.startswith((room.partition(".")[0], "tests.support."))
    # The list of engines names each engine's class, which lies beside its tests.
    engine = room == "tests.support" and re.fullmatch(r"tests\.store\.\w+\.engine", module)
    helper = module.rpartition(".")[0] == room and "test_" not in module
    subject = room in ("tests.bench", "tests.harness") and module.startswith(room.rpartition(".")[2] + ".")
    return module.startswith("tests.support.") or bool(engine) or helper or subject


def test_shared_test_code_is_in_support() -> None:
    files = [path for room in ("bench", "harness", "tests") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    found = {(str(path.relative_to(ROOT)), module) for path in files for module in ours(path)}
    assert [(path, module) for path, module in sorted(found) if not may_import(ROOT / path, module)] == []
