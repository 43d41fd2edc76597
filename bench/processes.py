"""The processes that are measured, and those that load them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
import psutil

ROOT = Path(__file__).parent.parent
SIGNING_KEY = "for-measuring-on-loopback-and-nothing-else"
START_SECONDS = 60
# So many that nothing is refused, while the guard counts every call.
ALLOWANCE = 1_000_000_000


@dataclass(frozen=True)
class Service:
    """A process and the gRPC or HTTP port it serves on."""

    process: subprocess.Popen[str]
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def resident_megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


@dataclass(frozen=True)
class Services:
    """What one run measures and compares."""

    metamorph: Service
    bare: Service
    unguarded: Service
    messages_api: Service


@contextmanager
def services(directory: Path) -> Iterator[Services]:
    """All of them, idle; they end with the block."""
    with ExitStack() as stack:
        api = stack.enter_context(_service(["tests.fakes.messages_api", "--words", "500"], directory))
        environment = {
            "EMBLEM_JWT_SECRET": SIGNING_KEY,
            "ANTHROPIC_API_KEY": "sk-bench",
            "ANTHROPIC_BASE_URL": f"http://{api.target}",
            "LISTEN_ADDRESS": "127.0.0.1",
            "PORT": "0",
            "GRPC_PORT": "0",
            "DATABASE_PATH": str(directory / "metamorph.db"),
            "RATE_LIMIT_REQUESTS": str(ALLOWANCE),
            # As in the image.
            "MALLOC_ARENA_MAX": "2",
        }
        yield Services(
            metamorph=stack.enter_context(_service(["metamorphd", "serve"], directory, environment)),
            bare=stack.enter_context(_service(["bench.bare", "echo"], directory)),
            unguarded=stack.enter_context(_service(["bench.bare", "unguarded"], directory)),
            messages_api=api,
        )


def token() -> str:
    """A token of a user who may do everything."""
    claims = {"vault_id": "bench", "sub": "bench", "permissions": ["read", "write"], "exp": int(time.time()) + 3600}
    return jwt.encode(claims, SIGNING_KEY, algorithm="HS256")


def load(kind: str, target: str, *, in_flight: int, seconds: float) -> dict[str, float]:
    """Loads a target from a process of its own; what that has measured."""
    arguments = [kind, target, "--in-flight", str(in_flight), "--seconds", str(seconds)]
    finished = subprocess.run(
        [sys.executable, "-m", "bench.load", *arguments],
        cwd=ROOT,
        env={**os.environ, "BENCH_TOKEN": token()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(finished.stdout)
    return measured


@contextmanager
def _service(module: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A Python module that says its port in its first line: alone, or as the server's log does."""
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
        yield Service(process, _port(process, log))
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
