"""Which tests run a line, as a run of all of them shows."""

import hashlib
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from scripts.mutants import plugin
from scripts.mutants.conditions import Change

PACKAGE = Path("server", "metamorphd")
SLOW_SECONDS = 10.0


@dataclass(frozen=True)
class Covering:
    """A test and how long it takes."""

    name: str
    seconds: float


class Coverage:
    """Which tests run which lines of the package in `tree`; kept in `file` for later runs."""

    def __init__(self, tree: Path, file: Path) -> None:
        self._tree = tree
        self._file = file
        self._tests: dict[str, Any] = {}
        self._slowest: dict[str, float] = {}

    def trace(self, directory: Path, jobs: int, *, files: Sequence[str]) -> Iterator[str]:
        """Runs the tests of `files` and yields pytest's output. Tests that are as they were are not run."""
        package = _digest(self._tree, [PACKAGE])
        kept = orjson.loads(self._file.read_bytes()) if self._file.exists() else {}
        known = kept["files"] if kept.get("package") == package else {}
        digests = {file: _digest(self._tree, [file]) for file in files}
        traced = {file: known[file] for file in files if known.get(file, {}).get("digest") == digests[file]}
        missing = [file for file in files if file not in traced]
        if missing:
            yield from self._run(missing, directory, jobs)
            found: dict[str, Any] = {}
            for part in directory.glob("*.json"):
                found |= orjson.loads(part.read_bytes())
            for file in missing:
                tests = {name: test for name, test in found.items() if name.partition("::")[0] == file}
                traced[file] = {"digest": digests[file], "tests": tests}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(orjson.dumps({"package": package, "files": known | traced}))
        for file, tests in traced.items():
            self._tests |= tests["tests"]
            self._slowest[file] = max((test["seconds"] for test in tests["tests"].values()), default=0.0)

    def _run(self, files: Sequence[str], directory: Path, jobs: int) -> Iterator[str]:
        environment = {plugin.DIRECTORY: str(directory), plugin.PACKAGE: str(self._tree / PACKAGE)}
        command = ["-q", "-p", "scripts.mutants.plugin", "--numprocesses", str(jobs), "--dist", "loadfile", *files]
        with subprocess.Popen(
            pytest_command(*command, directory=directory),
            cwd=self._tree,
            env={**environment_of(self._tree), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            yield from process.stdout or ()

    def of(self, change: Change) -> list[Covering]:
        """Returns the tests that run the condition: first those named after its module, then those of its package.

        Of the others, each file gives one in turn, quick ones before slow ones. Files with a slow test wait for two
        rounds, because it may be what their tests share that takes the time. A test that starts a server in another
        process may run any line there.
        """
        module = Path(change.path)
        near = [f"test_{module.name}", f"tests/{module.parent}/", f"tests/{module.parts[0]}/"]
        lines = set(range(change.lines[0], change.lines[1] + 1))
        files: defaultdict[str, list[Covering]] = defaultdict(list)
        for name, test in self._tests.items():
            if test["starts_process"] or not lines.isdisjoint(test["lines"].get(change.path, ())):
                files[name.partition("::")[0]].append(Covering(name, test["seconds"]))
        ordered: list[tuple[int, int, float, Covering]] = []
        for file, tests in files.items():
            distance = next((place for place, part in enumerate(near) if part in file), len(near))
            first = 2 if self._slowest[file] > SLOW_SECONDS else 0
            for round_, test in enumerate(sorted(tests, key=lambda test: test.seconds), first):
                ordered.append((distance, round_, test.seconds, test))
        return [test for *_, test in sorted(ordered, key=lambda each: each[:-1])]


def environment_of(tree: Path) -> Mapping[str, str]:
    """Returns an environment in which the packages of `tree` come before those that are installed."""
    paths = [*(tree / part for part in ("", "server", "clients/python")), Path(__file__).parents[2]]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def pytest_command(*arguments: str, directory: Path) -> list[str]:
    """Returns a command that runs tests, with its temporary files in `directory`."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={directory / 'tmp'}", *arguments]


def _digest(tree: Path, paths: Iterable[str | Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted((tree / path).rglob("*.py")) or [tree / path]:
            digest.update(f"{file.relative_to(tree)} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()
