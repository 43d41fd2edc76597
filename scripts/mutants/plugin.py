"""A pytest plugin: notes which of the server's lines each test runs, how long it takes, and if it starts a server."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import orjson
import pytest

# A directory, to which every process of pytest writes a file, and the package whose lines are noted.
DIRECTORY = "METAMORPH_MUTANTS_DIRECTORY"
PACKAGE = "METAMORPH_MUTANTS_PACKAGE"


class Tracing:
    """Runs each test in a coverage context of its own."""

    def __init__(self, package: Path, directory: Path) -> None:
        self._package = package
        self._directory = directory
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._starting: set[str] = set()
        self._running = ""
        self._coverage = coverage.Coverage(data_file=None, source=[str(package)], config_file=False)
        self._coverage.start()
        sys.addaudithook(self._audit)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._running = item.nodeid
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.monotonic() - began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and sys.executable in arguments[1]:
            self._starting.add(self._running)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        ran: dict[str, dict[str, list[int]]] = {name: {} for name in self._seconds if name not in self._failed}
        for file in data.measured_files():
            path = str(Path(file).relative_to(self._package))
            for line, names in data.contexts_by_lineno(file).items():
                for name in names:
                    if name in ran:
                        ran[name].setdefault(path, []).append(line)
        tests = {
            name: {"seconds": self._seconds[name], "starts_process": name in self._starting, "lines": lines}
            for name, lines in ran.items()
        }
        (self._directory / f"{os.getpid()}.json").write_bytes(orjson.dumps(tests))


def pytest_configure(config: pytest.Config) -> None:
    # The controller of several processes runs no tests.
    if not config.getoption("numprocesses", None):
        config.pluginmanager.register(Tracing(Path(os.environ[PACKAGE]), Path(os.environ[DIRECTORY])))
