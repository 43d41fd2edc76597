"""The processes that are measured, and those that load them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt

from tests.support.paths import ROOT
from tests.support.processes import ALLOCATOR, Service, service

SIGNING_KEY = "for-measuring-on-loopback-and-nothing-else"
# So many that nothing is refused, while the guard counts every call.
ALLOWANCE = 1_000_000_000
# Beside a round's length: its process imports the SDK, and slow replies begin one after the other.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Services:
    """The servers that one run compares."""

    metamorph: Service
    bare: Service
    unguarded: Service
    unchained: Service
    messages_api: Service


@contextmanager
def services(directory: Path) -> Iterator[Services]:
    """Starts all of them; they end with the block."""
    with ExitStack() as stack:
        api = stack.enter_context(service(["tests.support.fakes.messages_api", "--words", "500"], directory))
        yield Services(
            metamorph=stack.enter_context(_metamorph(directory, api)),
            bare=stack.enter_context(service(["bench.bare", "echo"], directory)),
            unguarded=stack.enter_context(service(["bench.bare", "unguarded"], directory)),
            unchained=stack.enter_context(service(["bench.bare", "unchained"], directory)),
            messages_api=api,
        )


@contextmanager
def slow_service() -> Iterator[Service]:
    """Starts a server whose model says 20 words a second, for ten seconds a reply; it ends with the block."""
    words = ["tests.support.fakes.messages_api", "--words", "200", "--delay-ms", "50", "--stamp"]
    with (
        tempfile.TemporaryDirectory() as name,
        service(words, Path(name)) as api,
        _metamorph(Path(name), api) as server,
    ):
        yield server


def _metamorph(directory: Path, api: Service) -> AbstractContextManager[Service]:
    return model_service(directory / "metamorph.db", f"http://{api.target}")


def model_service(file: Path, api_url: str, **more: str) -> AbstractContextManager[Service]:
    """Starts a server with a database file, a Messages API and `more` settings; it is killed after the block."""
    environment = (
        {
            "EMBLEM_JWT_SECRET": SIGNING_KEY,
            "ANTHROPIC_API_KEY": "sk-bench",
            "ANTHROPIC_BASE_URL": api_url,
            "LISTEN_ADDRESS": "127.0.0.1",
            "PORT": "0",
            "GRPC_PORT": "0",
            "DATABASE_PATH": str(file),
            "RATE_LIMIT_REQUESTS": str(ALLOWANCE),
            "MAX_RUNNING_TURNS": "10000",
        }
        | ALLOCATOR
        | more
    )
    return service(["metamorphd", "serve"], file.parent, environment)


@contextmanager
def observing_services() -> Iterator[tuple[Service, Service]]:
    """Starts a server that counts, logs and traces calls, one in a hundred, and one that does not."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        observed, unobserved = Path(name) / "observed", Path(name) / "unobserved"
        for directory in (observed, unobserved):
            directory.mkdir()
        receiver = stack.enter_context(service(["bench.observing", "receiver"], Path(name)))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.target}", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        blind = ["bench.observing", "unobserved"]
        yield (
            stack.enter_context(sized_service(observed / "metamorph.db", **traced)),
            stack.enter_context(sized_service(unobserved / "metamorph.db", module=blind)),
        )


@contextmanager
def logging_services() -> Iterator[tuple[Service, Service]]:
    """Starts a server that appends to the logs of vaults, authenticated, and one that does not."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        logged, unlogged = Path(name) / "logged", Path(name) / "unlogged"
        for directory in (logged, unlogged):
            directory.mkdir()
        yield (
            stack.enter_context(sized_service(logged / "metamorph.db", AUDIT_KEY="k" * 32)),
            stack.enter_context(sized_service(unlogged / "metamorph.db", module=["bench.unlogged"])),
        )


@contextmanager
def watched_service(count: int) -> Iterator[tuple[Service, "Watchers"]]:
    """Starts a server, and so many watchers that are not open yet."""
    with tempfile.TemporaryDirectory() as name, sized_service(Path(name) / "metamorph.db") as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.watchers", server.target, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield server, Watchers(process)
        finally:
            process.kill()
            process.communicate()


def sized_service(
    file: Path, *, module: Sequence[str] = ("metamorphd", "serve"), **more: str
) -> AbstractContextManager[Service]:
    """Starts a server with the offline model on a database file, and `more` settings; it is killed after the block."""
    environment = {
        "EMBLEM_JWT_SECRET": SIGNING_KEY,
        "LISTEN_ADDRESS": "127.0.0.1",
        "PORT": "0",
        "GRPC_PORT": "0",
        "DATABASE_PATH": str(file),
        "RATE_LIMIT_REQUESTS": str(ALLOWANCE),
        # A generated file is of another year.
        "CHANGE_RETENTION_DAYS": "36500",
        **more,
    } | ALLOCATOR
    return service(module, file.parent, environment)


def token(vault: str = "bench", **more: object) -> str:
    """Returns the token of a user who may do everything in a vault, with `more` claims."""
    claims = {
        "vault_id": vault,
        "sub": "bench",
        "permissions": ["read", "write", "delete"],
        "exp": int(time.time()) + 3600,
        **more,
    }
    return jwt.encode(claims, SIGNING_KEY, algorithm="HS256")


class LoadFailed(Exception):
    """A round that could not be measured. Its text is one line that says why."""


# What one round of a load measured, by name.
Round = dict[str, float]


class Load:
    """A process that loads a server when it is asked to."""

    def __init__(self, process: subprocess.Popen[str], *, patience: float) -> None:
        self._process = process
        self._patience = patience

    def round(self) -> Round:
        """Loads the server, and returns what that measured. Raises LoadFailed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        giving_up = threading.Timer(self._patience, process.kill)
        giving_up.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                print(file=process.stdin, flush=True)
            line = process.stdout.readline()
        finally:
            giving_up.cancel()
        if not line:
            why = last_line(process.stderr.read())
            raise LoadFailed(why or f"the load did not end within {self._patience:.0f} s")
        measured: Round = json.loads(line)
        return measured


class Watchers:
    """A process of watchers, see `bench.watchers`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def step(self) -> None:
        """Opens the watchers, or has each sent a change. Raises LoadFailed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        giving_up = threading.Timer(PATIENCE_SECONDS, process.kill)
        giving_up.start()
        try:
            print(file=process.stdin, flush=True)
            if not process.stdout.readline():
                raise LoadFailed(last_line(process.stderr.read()) or f"not done within {PATIENCE_SECONDS:.0f} s")
        finally:
            giving_up.cancel()


@contextmanager
def loading(kind: str, service: Service, *, in_flight: int, seconds: float) -> Iterator[Load]:
    """Starts a load, see `bench.load`, of rounds of so many seconds; it ends with the block."""
    arguments = [kind, service.target, "--pid", str(service.process.pid)]
    arguments += ["--in-flight", str(in_flight), "--seconds", str(seconds)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load", *arguments],
        cwd=ROOT,
        env={**os.environ, "BENCH_TOKEN": token()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Load(process, patience=PATIENCE_SECONDS + seconds)
    finally:
        process.kill()
        process.communicate()


def last_line(text: str) -> str:
    """Returns the last line that is not empty, which of a traceback is the error, or nothing."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
