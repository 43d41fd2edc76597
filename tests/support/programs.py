"""Programs outside Python that may not be installed on every developer's machine."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.paths import ROOT


def require(name: str, *, hint: str, installed: Path | None = None) -> str:
    """Returns the path of a program. If it is missing, skips the test, or fails it in CI."""
    found = shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    if found is None or (installed is not None and not installed.exists()):
        missing(f"{name} is needed here: {hint}")
    return found


def missing(reason: str) -> NoReturn:
    """Skips the test because a program is missing, or fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def typescript_client() -> Path:
    """Returns the directory of the TypeScript client, built if its sources are newer. Skips the test if it cannot."""
    directory = ROOT / "clients" / "typescript"
    node = require("node", hint="install Node 20, then `make tools`", installed=directory / "node_modules")
    built = directory / "dist" / "cjs" / "package.json"
    sources = [*directory.glob("src/**/*.ts"), *directory.glob("*.json"), directory / "build.mjs"]
    with (directory / "package.json").open() as file:
        # One process of the tests builds, and the others wait.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            subprocess.run([node, "build.mjs"], cwd=directory, check=True)
    return directory


def client_program(language: str, source: Path) -> list[str]:
    """Returns a command that runs a program of a client, in its directory. Skips the test if it cannot."""
    if language == "go":
        return [require("go", hint="install Go"), "run", str(source.with_suffix(".go"))]
    typescript_client()
    return ["node", "--input-type=module", "--eval", source.with_suffix(".js").read_text()]
