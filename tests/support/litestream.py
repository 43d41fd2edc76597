"""Servers that the real Litestream replicates, and where to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.buckets import BUCKET, KEY_ID, SECRET_KEY, Store
from tests.support.engines import ENGINES
from tests.support.paths import ROOT
from tests.support.processes import SOURCES, Service, environment_of, started
from tests.support.programs import require
from tests.support.rows import new_session

REPLICATE = ROOT / "deploy" / "replicate"
CONFIG = ROOT / "deploy" / "litestream.yml"
(ENGINE,) = [engine for engine in ENGINES if engine.name == "sqlite"]


@dataclass(frozen=True)
class Target:
    """Where a replica is: its URL, the environment with which Litestream reaches it, and its directory here."""

    url: str
    files: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> dict[str, str]:
        """The environment of Litestream, and of a server that starts it."""
        # It is about the machine that runs the tests, and Litestream cannot use it together with a client of its own.
        given = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
        path = os.pathsep.join((str(Path(litestream()).parent), given["PATH"]))
        return given | {"PATH": path, "REPLICA_URL": self.url} | self.environment


def litestream() -> str:
    """Returns the program. Skips the test if it is not installed, except in CI."""
    return require("litestream", hint="`make tools`")


def in_directory(directory: Path) -> Target:
    return Target(f"file://{directory}", directory)


def in_bucket(store: Store) -> Target:
    return Target(
        f"s3://{BUCKET}/replica?endpoint={store.endpoint}&region=us-east-1",
        store.directory / BUCKET / "replica",
        {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a server and its Litestream with kill -9."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def replicated(directory: Path, target: Target, **environment: str) -> Iterator[Service]:
    """Serves and replicates as in the image. Both are killed after the block, as if the machine failed."""
    directory.mkdir(exist_ok=True)
    log = directory / f"replicated-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [REPLICATE, sys.executable, "-m", "metamorphd", "serve"],
            cwd=directory,
            env={**target.whole, "PYTHONPATH": SOURCES, **environment_of(directory), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started(process, log)
    finally:
        kill(process)


def restore(target: Target, output: Path) -> None:
    """Restores a replica elsewhere, and checks it, by Litestream's own command. Fails the test if that fails."""
    command = [litestream(), "restore", "-integrity-check", "full", "-o", str(output), target.url]
    ended = subprocess.run(command, env=target.whole, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def replicate_once(database: Path, target: Target) -> None:
    """Sends what a database has to the replica, and returns once it is there."""
    command = [litestream(), "replicate", "-config", str(CONFIG), "-once"]
    environment = {**target.whole, "DATABASE_PATH": str(database)}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def replicated_sessions(directory: Path, target: Target, *, count: int) -> None:
    """Creates a database of so many sessions, and sends it to the replica."""
    async with ENGINE.database(directory) as database:
        for _ in range(count):
            await new_session(database)
        replicate_once(directory / "metamorph.db", target)
