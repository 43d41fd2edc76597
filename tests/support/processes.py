"""Servers in separate processes, which can be measured and killed."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.paths import ROOT
from tests.support.tokens import SECRET

START_SECONDS = 60
# Of this tree, which may be a copy of the one that is installed.
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("", "server", "clients/python"))
# As in the image.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


@dataclass(frozen=True)
class Service:
    """A process, its port (gRPC, or HTTP if it has no gRPC port) and its output."""

    process: subprocess.Popen[bytes]
    port: int
    http_port: int
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def resident_megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


@contextmanager
def service(
    module: Sequence[str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    stderr: int | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Service]:
    """Runs a Python module that prints its port on a line or logs it. The process is killed after the block.

    `wrapper` is a command that runs another one, with its arguments, in the same process.
    """
    log = directory / f"{module[0]}-{uuid.uuid4().hex}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", *module],
            # Not the source tree, where a developer may have a .env.
            cwd=directory,
            env={**os.environ, "PYTHONPATH": SOURCES, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=stderr,
        )
    try:
        yield started(process, log)
    finally:
        process.kill()
        process.communicate()


def started(process: subprocess.Popen[bytes], log: Path) -> Service:
    """Returns a process once its log has its port."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if line.strip().isdigit():
                return Service(process, int(line), int(line), log)
            if line.endswith("\n") and (ports := json.loads(line)).get("grpc_port"):
                return Service(process, ports["grpc_port"], ports["http_port"], log)
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not start: {log.read_text()}")


def environment_of(directory: Path) -> dict[str, str]:
    """Returns the environment of a test server: free ports, no rate limit, data in `directory`."""
    return {
        "EMBLEM_JWT_SECRET": SECRET,
        "EMBLEM_API_URL": "",
        "LISTEN_ADDRESS": "127.0.0.1",
        "PORT": "0",
        "GRPC_PORT": "0",
        "DATABASE_PATH": str(directory / "metamorph.db"),
        "RATE_LIMIT_REQUESTS": "0",
        # A ballast for each test would fill the disk.
        "STORAGE_FLOOR_BYTES": "0",
        "AUTH_FAILURE_REQUESTS": "0",
    }


@contextmanager
def serving_process(directory: Path, *, wrapper: Sequence[str] = (), **environment: str) -> Iterator[Service]:
    """Runs `metamorph serve` as a process. Its log includes standard error."""
    whole = environment_of(directory) | environment
    with service(["metamorphd", "serve"], directory, whole, stderr=subprocess.STDOUT, wrapper=wrapper) as started:
        yield started
