"""The processes that are measured, and those that load them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt

from tests.support.paths import ROOT
from tests.support.processes import Service, service

SIGNING_KEY = "for-measuring-on-loopback-and-nothing-else"
# So many that nothing is refused, while the guard counts every call.
ALLOWANCE = 1_000_000_000


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
        api = stack.enter_context(service(["tests.support.fakes.messages_api", "--words", "500"], directory))
        yield Services(
            metamorph=stack.enter_context(_metamorph(directory, api)),
            bare=stack.enter_context(service(["bench.bare", "echo"], directory)),
            unguarded=stack.enter_context(service(["bench.bare", "unguarded"], directory)),
            messages_api=api,
        )


@contextmanager
def slow_service() -> Iterator[Service]:
    """A server of its own whose model says 20 words a second, for ten seconds a reply."""
    words = ["tests.support.fakes.messages_api", "--words", "200", "--delay-ms", "50", "--stamp"]
    with (
        tempfile.TemporaryDirectory() as name,
        service(words, Path(name)) as api,
        _metamorph(Path(name), api) as server,
    ):
        yield server


def _metamorph(directory: Path, api: Service) -> AbstractContextManager[Service]:
    environment = {
        "EMBLEM_JWT_SECRET": SIGNING_KEY,
        "ANTHROPIC_API_KEY": "sk-bench",
        "ANTHROPIC_BASE_URL": f"http://{api.target}",
        "LISTEN_ADDRESS": "127.0.0.1",
        "PORT": "0",
        "GRPC_PORT": "0",
        "DATABASE_PATH": str(directory / "metamorph.db"),
        "RATE_LIMIT_REQUESTS": str(ALLOWANCE),
        "MAX_RUNNING_TURNS": "10000",
        # As in the image.
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    return service(["metamorphd", "serve"], directory, environment)


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
