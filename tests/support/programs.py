"""Programs outside Python that may not be installed on every developer's machine."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def require(name: str, *, hint: str, installed: Path | None = None) -> str:
    """Returns the path of a program. If it is missing, skips the test, or fails it in CI."""
    found = shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    if found is not None and (installed is None or installed.exists()):
        return found
    reason = f"{name} is needed here: {hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def client_program(language: str, source: Path) -> list[str]:
    """Returns a command that runs a program of a client, in its directory. Skips the test if it cannot."""
    if language == "go":
        return [require("go", hint="install Go"), "run", str(source.with_suffix(".go"))]
    installed = ROOT / "clients" / "typescript" / "node_modules"
    require("node", hint="install Node 20, then `make tools`", installed=installed)
    return ["node", "--input-type=module", "--eval", source.with_suffix(".js").read_text()]
