"""How the driver of each language is started."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.clients.conformance.driver import Command
from tests.support.paths import ROOT
from tests.support.programs import client_program, require

DRIVERS = ROOT / "tests" / "clients" / "conformance" / "drivers"
PYTHON_PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])}


def _python(module: str, *arguments: str) -> Callable[[], Command]:
    command = [sys.executable, "-m", f"tests.clients.conformance.drivers.{module}", *arguments]
    return lambda: Command(command, ROOT, PYTHON_PATH)


def mutant_of_python(name: str) -> Command:
    """Returns the driver of a client that is wrong."""
    return _python("python_mutant", name)()


def _go() -> Command:
    return Command([str(Path(_built_go_driver().name) / "driver")], ROOT)


def _typescript() -> Command:
    # Evaluated in the client's directory, so that it finds the client by its name.
    return Command(client_program("typescript", DRIVERS / "typescript"), ROOT / "clients" / "typescript")


@cache
def _built_go_driver() -> "tempfile.TemporaryDirectory[str]":
    """Returns the directory of the program, which is deleted in the end."""
    go = require("go", hint="install Go (clients/go/go.mod names the version)")
    directory = tempfile.TemporaryDirectory(prefix="metamorph-driver-")
    files = sorted(map(str, (DRIVERS / "go").glob("*.go")))
    build = [go, "build", "-o", f"{directory.name}/driver", *files]
    subprocess.run(build, cwd=ROOT / "clients" / "go", check=True)
    return directory


# A function of a language may skip its tests, if a program is missing that its driver needs.
LANGUAGES: dict[str, Callable[[], Command]] = {
    "python": _python("python_async"),
    "python-sync": _python("python_sync"),
    "go": _go,
    "typescript": _typescript,
}

# Cases that a language's types make impossible, with the reason.
SKIPPED: dict[tuple[str, str], str] = {
    ("go", "a_token_that_is_not_text_is_refused_before_anything_is_sent"): "a token is a string, says the type",
}
