"""The image, built by running every instruction of the Dockerfile, and containers of it."""

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

from tests.deploy.container import Limits, Root, new_root
from tests.deploy.dockerfile import Stage, stages
from tests.support.paths import ROOT
from tests.support.programs import require
from tests.support.tokens import SECRET

BASE, LITESTREAM, BUILD, FINAL = stages(ROOT / "Dockerfile")
USER = 10001
NEEDED = {"EMBLEM_JWT_SECRET": SECRET, "ANTHROPIC_API_KEY": "sk-ant-of-a-test"}
STEP_SECONDS = 110
# Without anything in Go's build cache. `make tools` fills it.
COMPILING_SECONDS = 600
# From SIGTERM to SIGKILL: what every way of deploying the image gives it.
DRAINING_SECONDS = 50
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
# As the image of Go sets it.
GO_ENVIRONMENT = {"PATH": f"/go/bin:/usr/local/go/bin:{PATH}", "HOME": "/root", "GOPATH": "/go", "GOTOOLCHAIN": "local"}
# How uv, pip and Go reach the registry from this machine. A base image has no such variables.
REACHING = re.compile(
    r"(PIP|SSL|HTTPS?|NO|ALL)_\w+|GOPROXY|UV_\w*INDEX\w*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE", re.IGNORECASE
)


@dataclass(frozen=True)
class Image:
    """A built image."""

    root: Root

    @functools.cached_property
    def workdir(self) -> str:
        return FINAL.all("WORKDIR")[-1].text

    def environment(self, **variables: str) -> dict[str, str]:
        """Returns the environment of a container, without any variable of this machine."""
        made = FINAL.environment()
        made["PATH"] = made["PATH"].replace("$PATH", PATH)
        return made | {"PORT": "0", "GRPC_PORT": "0"} | variables

    def command(self, *argv: str, limits: Limits) -> list[str]:
        """Returns the command of a container: the entry point with arguments, those of the image by default."""
        entry = FINAL.all("ENTRYPOINT")[0].exec_form()
        given = list(argv) or FINAL.all("CMD")[0].exec_form()
        return self.root.command([*entry, *given], workdir=self.workdir, limits=limits)

    def run(self, *argv: str, limits: Limits | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a container and waits for its end."""
        return subprocess.run(
            self.command(*argv, limits=limits or Limits(user=USER)),
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def context(directory: Path) -> Path:
    """Copies what .dockerignore leaves of the tree."""
    ignored = shutil.ignore_patterns("__pycache__", "*.py[co]", "*.egg-info", "example.py")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], directory / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)
    return directory


def build(directory: Path) -> Image:
    """Builds the image in a directory. The last step of the build stage is run without a network."""
    reaching = {name: value for name, value in os.environ.items() if REACHING.fullmatch(name)}
    litestream = new_root(directory / "litestream")
    run_stage(LITESTREAM, litestream, copied={}, environment=reaching | GO_ENVIRONMENT, mounts=go(), networked=1)
    cache = Path(output(uv(), "cache", "dir"))
    cache.mkdir(parents=True, exist_ok=True)
    stage = new_root(directory / "build")
    sources = Root(context(directory / "context"))
    environment = {**reaching, "PATH": PATH, "UV_CACHE_DIR": "/cache", "UV_PYTHON_DOWNLOADS": "never"}
    steps = len(BUILD.all("RUN"))
    mounts = {"/cache": cache}
    run_stage(BUILD, stage, copied={"": sources}, environment=environment, mounts=mounts, networked=steps - 1)
    final = new_root(directory / "final")
    copied = {"": sources, "build": stage, "litestream": litestream}
    run_stage(FINAL, final, copied=copied, environment={"PATH": PATH}, mounts={}, networked=0)
    return Image(final)


def go() -> dict[str, Path]:
    """Returns where the image of Go has what this machine has: Go itself, the modules and the build cache."""
    program = require("go", hint="install Go (clients/go/go.mod names the version)")
    places = output(program, "env", "GOROOT", "GOMODCACHE", "GOCACHE").splitlines()
    return dict(zip(("/usr/local/go", "/go/pkg/mod", "/root/.cache/go-build"), map(Path, places), strict=True))


def output(*command: str) -> str:
    """Runs a command and returns the text that it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def uv() -> str:
    """Returns the path of uv."""
    found = shutil.which("uv", path=f"{ROOT / '.tools' / 'uv' / 'bin'}:{os.environ['PATH']}")
    assert found is not None, "`make install` puts uv into .tools"
    return found


def run_stage(
    stage: Stage,
    root: Root,
    *,
    copied: dict[str, Root],
    environment: dict[str, str],
    mounts: Mapping[str, Path],
    networked: int,
) -> None:
    """Does what changes files in a stage. `networked` is how many of the first RUN instructions have a network.

    `copied` has the roots to copy from, by the name of their stage: the empty one is that of the build context.
    """
    workdir, ran = "/", 0
    for instruction in stage.instructions:
        match instruction.name:
            case "WORKDIR":
                workdir = instruction.text
                root.inside(workdir).mkdir(parents=True, exist_ok=True)
            case "ENV":
                environment |= dict(word.split("=", 1) for word in instruction.words())
                environment["PATH"] = environment["PATH"].replace("$PATH", PATH)
            case "COPY":
                source = re.search(r"--from=(\w+)", instruction.text)
                copy(instruction.words(), copied[source[1] if source else ""], root, workdir)
            case "RUN":
                limits = Limits(network=ran < networked, mounts=mounts)
                ran += 1
                command = root.command(["/bin/sh", "-ec", instruction.text], workdir=workdir, limits=limits)
                done = subprocess.run(
                    command,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=COMPILING_SECONDS if stage is LITESTREAM else STEP_SECONDS,
                    check=False,
                )
                assert done.returncode == 0, f"{instruction.text}\n{done.stdout}{done.stderr}"


def copy(words: list[str], source: Root, root: Root, workdir: str) -> None:
    """Does a COPY: a file is put into a directory, of a directory its contents. One that ends in a slash is made."""
    *names, destination = words
    target = root.inside(str(Path(workdir, destination)))
    if destination.endswith("/"):
        target.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = source.inside(name)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)


@dataclass
class Container:
    """A running server of the image. Its log is read until it serves; `warnings` has what it warned of."""

    process: asyncio.subprocess.Process
    warnings: list[dict[str, Any]]
    http_port: int = 0
    grpc_port: int = 0

    @property
    def first(self) -> psutil.Process:
        """Returns the first process of the container."""
        (first,) = psutil.Process(self.process.pid).children()
        return first

    def status(self) -> dict[str, str]:
        """Returns what the kernel says of the first process, such as `Uid` and `CapEff` (proc(5))."""
        lines = Path(f"/proc/{self.first.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yields the lines of its log."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            yield json.loads(line)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Returns the status and body of GET /health."""
        try:
            with urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=5) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def stop(self) -> None:
        """Sends SIGTERM to the first process, as engines and Railway do."""
        self.first.send_signal(signal.SIGTERM)


@asynccontextmanager
async def running(image: Image, limits: Limits, *argv: str, **variables: str) -> AsyncIterator[Container]:
    """Runs a server, by default with the image's command. After the block it is stopped, unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        *image.command(*argv, limits=limits),
        env=image.environment(**NEEDED, STORAGE_FLOOR_BYTES="0", **variables),
        stdout=asyncio.subprocess.PIPE,
    )
    container = Container(process, [])
    try:
        async with asyncio.timeout(60):
            async for line in container.lines():
                if line["level"] == "warning":
                    container.warnings.append(line)
                if line["message"] == "serving":
                    container.http_port, container.grpc_port = line["http_port"], line["grpc_port"]
                    break
        yield container
    finally:
        if process.returncode is None:
            container.stop()
        await asyncio.wait_for(process.communicate(), DRAINING_SECONDS)


def volume(directory: Path, *, owner: int = 0) -> Path:
    """Makes a volume that belongs to a user."""
    directory.mkdir()
    os.chown(directory, owner, owner)
    return directory


def files(root: Root) -> Iterator[Path]:
    """Yields every file and directory of a container that is no mount."""
    for name in ("etc", "opt", "local", "run", "var", "data"):
        yield from (root.path / name).rglob("*")


def hardened(data: Path) -> Limits:
    """Returns what deploy/compose.yaml and deploy/kubernetes.yaml run a container with."""
    return Limits(user=USER, read_only=True, no_capabilities=True, volume=data)
