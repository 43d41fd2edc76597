"""How the driver of each language is started."""

import os
import sys
from collections.abc import Callable

from tests.clients.conformance.driver import Command
from tests.support.paths import ROOT

DRIVERS = ROOT / "tests" / "clients" / "conformance" / "drivers"
PYTHON_PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])}


def _python(module: str, *arguments: str) -> Callable[[], Command]:
    command = [sys.executable, "-m", f"tests.clients.conformance.drivers.{module}", *arguments]
    return lambda: Command(command, ROOT, PYTHON_PATH)


def mutant_of_python(name: str) -> Command:
    """Returns the driver of a client that is wrong."""
    return _python("python_mutant", name)()


# A function of a language may skip its tests, if a program is missing that its driver needs.
LANGUAGES: dict[str, Callable[[], Command]] = {
    "python": _python("python_async"),
    "python-sync": _python("python_sync"),
}

# Cases that a language's types make impossible, with the reason.
SKIPPED: dict[tuple[str, str], str] = {}
