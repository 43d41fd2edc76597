"""Servers as processes of their own, whose memory can be told apart."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.paths import ROOT
from tests.support.tokens import SECRET

START_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """A process, the port it serves on (gRPC, or HTTP where it has no other), and what it has said."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def resident_megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


@contextmanager
def service(module: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A Python module that says its port in its first line: alone, or as the server's log does. Ends with the block."""
    log = directory / f"{module[0]}-{module[-1]}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=output,
            text=True,
        )
    try:
        yield Service(process, _port(process, log), log)
    finally:
        process.kill()
        process.communicate()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        first, ended, _ = log.read_text().partition("\n")
        if ended:
            return int(first) if first.isdigit() else int(json.loads(first)["grpc_port"])
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not start: {log.read_text()}")


@contextmanager
def serving_process(directory: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`metamorph serve` as its own process; (process, target)."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PORT", "GRPC_PORT")}
    base = {
        "EMBLEM_JWT_SECRET": SECRET,
        "LISTEN_ADDRESS": "127.0.0.1",
        "PORT": "0",
        "GRPC_PORT": "0",
        "DATABASE_PATH": str(directory / "metamorph.db"),
        "RATE_LIMIT_REQUESTS": "0",
    }
    log = directory / f"{uuid.uuid4().hex}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "metamorphd", "serve"],
            env=inherited | base | environment,
            stdout=output,
            stderr=output,
            cwd=directory,
        )
    try:
        port = wait_for(lambda: grpc_port(log), process, log)
        yield process, f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def grpc_port(log: Path) -> str | None:
    line = next((line for line in log.read_text().splitlines() if '"message":"serving"' in line), None)
    return None if line is None else line.partition('"grpc_port":')[2].partition(",")[0]


def wait_for(look: Callable[[], str | None], process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError(f"not serving after 30 s: {log.read_text()}")
