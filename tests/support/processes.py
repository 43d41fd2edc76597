"""Servers as processes of their own, whose memory can be told apart."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.serving import ROOT

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
