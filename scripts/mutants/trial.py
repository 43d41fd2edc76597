"""Tries changes, each in a copy of the tree."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.mutants.conditions import Change
from scripts.mutants.covering import PACKAGE, Covering, environment_of, pytest_command

# Neither tests nor the server need them.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".tools", "node_modules", "data", "dist", ".*_cache", ".env")
LINKED = (".venv", ".tools", "clients/typescript/node_modules")
# What pytest needs to begin, how much longer than before its tests may take, and how long each of them.
START_SECONDS = 60.0
TEST_SECONDS = 60
PATIENCE = 5.0
OPTIONS = ("-x", "-q", "-rfE", "--tb=no", f"--timeout={TEST_SECONDS}")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::.*?)?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """How a change fared: `found` by a test, explained, or neither.

    `tests` were run, of the `covering` ones.
    """

    change: Change
    found: str = ""
    explained: str = ""
    tests: int = 0
    covering: int = 0
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        """Whether no test fails with the change, and nobody says why."""
        return not self.found and not self.explained

    def as_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return asdict(self) | {"survived": self.survived}


@dataclass
class Tree:
    """A copy of a source tree, in which one change at a time is made."""

    source: Path
    directory: Path
    _writes: int = field(default=0, init=False)

    @property
    def root(self) -> Path:
        """Where the copy is."""
        return self.directory / "tree"

    def make(self) -> None:
        """Copies the tree."""
        shutil.copytree(self.source, self.root, ignore=LEFT_OUT, symlinks=True)
        for link in LINKED:
            if (self.source / link).exists():
                (self.root / link).symlink_to((self.source / link).resolve())

    def finding(self, change: Change, tests: Sequence[Covering]) -> str:
        """Returns a test that fails with the change, twice, or an empty string if there is none."""
        path = self.root / PACKAGE / change.path
        source = path.read_bytes()
        self._write(path, change.applied(source))
        try:
            seconds = {test.name: test.seconds for test in tests}
            while seconds and (failed := self._failing(list(seconds), sum(seconds.values()))):
                if failed not in seconds or self._failing([failed], seconds[failed]):
                    return failed
                # A test that fails by chance proves nothing, also not of the others.
                del seconds[failed]
            return ""
        finally:
            self._write(path, source)

    def _write(self, path: Path, source: bytes) -> None:
        path.write_bytes(source)
        # Bytecode is known by the second in which its source was written.
        self._writes += 1
        os.utime(path, (self._writes, self._writes))

    def _failing(self, tests: Sequence[str], seconds: float) -> str:
        """Runs tests to the first that fails, and returns its name."""
        names = self.directory / "tests"
        names.write_text("".join(f"{name}\n" for name in tests))
        process = subprocess.Popen(
            pytest_command(*OPTIONS, f"@{names}", directory=self.directory),
            cwd=self.root,
            env={**environment_of(self.root), "COLUMNS": "1000"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                output, _ = process.communicate(timeout=START_SECONDS + PATIENCE * seconds)
            except subprocess.TimeoutExpired:
                return "tests that do not end"
            finally:
                # With whatever the tests have started.
                _kill(process.pid)
        if process.returncode == 0:
            return ""
        if failed := FAILED.search(output):
            return failed[1]
        if "ImportError while loading conftest" in output:
            return "the import of the server"
        if process.returncode in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise RuntimeError(f"pytest ended with {process.returncode}:\n{output}")
        return f"the end of pytest, with {process.returncode}"


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
