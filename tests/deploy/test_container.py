"""The image, tested without a container engine: the steps of the Dockerfile run in a directory."""

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from metamorphd.settings import Settings

from tests.deploy.dockerfile import stages
from tests.support.engines import ENGINES
from tests.support.paths import ROOT
from tests.support.processes import ALLOCATOR
from tests.support.programs import require
from tests.support.tokens import SECRET

BUILD, FINAL = stages(ROOT / "Dockerfile")
ALL = [*BUILD.instructions, *FINAL.instructions]
UV = "/opt/uv/bin/uv"
OTHER_USER_ID = 10001
NEEDED = {"EMBLEM_JWT_SECRET": SECRET, "ANTHROPIC_API_KEY": "sk-ant-of-a-test"}


def test_every_stage_uses_the_same_pinned_base_image() -> None:
    assert BUILD.image == FINAL.image
    assert re.fullmatch(r"python:3\.11-slim", FINAL.image)


def test_every_copied_path_exists_in_the_build_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for instruction in BUILD.all("COPY") for source in instruction.words()[:-1]}
    assert copied == kept
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [instruction.text for instruction in FINAL.all("COPY")] == ["--from=build /opt/metamorph /opt/metamorph"]


def test_the_server_is_the_first_process_and_receives_signals() -> None:
    assert [instruction.exec_form() for instruction in FINAL.all("CMD")] == [["metamorph", "serve"]]
    assert not FINAL.all("ENTRYPOINT")


def test_railway_can_mount_its_volume() -> None:
    assert {instruction.name for instruction in ALL}.isdisjoint({"VOLUME", "USER"})
    assert FINAL.environment()["DATABASE_PATH"] == "/data/metamorph.db"


def test_the_image_runs_in_production_mode_on_the_default_ports() -> None:
    ports = [Settings.model_fields[name].default for name in ("port", "grpc_port")]
    assert [int(port) for port in FINAL.all("EXPOSE")[0].words()] == ports
    assert FINAL.environment()["NODE_ENV"] == "production"


def test_memory_is_measured_with_the_allocator_of_the_image() -> None:
    assert FINAL.environment().items() >= ALLOCATOR.items()


def test_no_secret_is_built_in() -> None:
    names = {name for stage in (BUILD, FINAL) for name in stage.environment()}
    assert not [name for name in names if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]
    assert not [instruction for instruction in ALL if instruction.name == "ARG"]


def test_the_image_uses_the_same_uv_version_as_a_checkout() -> None:
    pins = [re.findall(r"uv==([0-9.]+)", (ROOT / name).read_text()) for name in ("Dockerfile", "scripts/install")]
    assert pins[0] == pins[1]
    assert len(pins[0]) == 1


def locked(name: str) -> dict[str, str]:
    """Returns each package of a lock with its version, markers and hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        package, _, rest = entry.partition("==")
        assert "--hash=sha256:" in rest, f"{package} has no hash"
        found[package] = rest
    return found


def test_the_image_has_the_tested_versions_and_no_development_tools() -> None:
    runtime, development = locked("requirements.runtime.lock"), locked("requirements.lock")
    versions = {name: rest.split()[0] for name, rest in runtime.items()}
    assert versions == {name: development[name].split()[0] for name in runtime}
    assert {name: set(re.findall("sha256:[0-9a-f]{64}", rest)) for name, rest in runtime.items()} == {
        name: set(re.findall("sha256:[0-9a-f]{64}", development[name])) for name in runtime
    }
    assert set(runtime).isdisjoint({"pytest", "ruff", "mypy", "grpcio-tools", "railway-sdk"})
    assert "grpcio" in runtime


@dataclass(frozen=True)
class Image:
    """A directory with the contents of the image."""

    root: Path

    def inside(self, text: str) -> str:
        """Rewrites the image's absolute paths to paths in the directory."""
        return re.sub(r"(?<![\w./])/(?=(?:opt|src|data)\b)", f"{self.root}/", text)

    def environment(self, **variables: str) -> dict[str, str]:
        """Returns the environment of a process in the image, without any variable of this machine."""
        made = {name: self.inside(value) for name, value in FINAL.environment().items()}
        made["PATH"] = made["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
        return made | {"PORT": "0", "GRPC_PORT": "0"} | variables

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the image and waits for it to exit."""
        return subprocess.run(
            [*self.as_other_user, *command],
            cwd=self.inside(FINAL.all("WORKDIR")[-1].text),
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @functools.cached_property
    def as_other_user(self) -> list[str]:
        """Returns the prefix of a command that runs it as a user who owns only /data."""
        if os.geteuid() != 0:
            return []
        become = ["setpriv", f"--reuid={OTHER_USER_ID}", f"--regid={OTHER_USER_ID}", "--clear-groups"]
        interpreter = Path(self.root, "opt/metamorph/bin/python").resolve()
        if all(directory.stat().st_mode & stat.S_IXOTH for directory in interpreter.parents):
            return become
        # Here, unlike in the image, the interpreter may be in a home directory. The capability grants reading only.
        return [*become, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Yields the image, built by the steps of the build stage, with the data directory of the final stage."""
    # Other users cannot enter pytest's own directory.
    root = Path(tempfile.mkdtemp(prefix="metamorph-image-"))
    root.chmod(0o755)
    try:
        yield build(Image(root))
    finally:
        shutil.rmtree(root)


def build(image: Image) -> Image:
    """Runs the Dockerfile with the uv of this machine, whose cache saves most downloads."""
    found = shutil.which("uv", path=f"{ROOT / '.tools' / 'uv' / 'bin'}:{os.environ['PATH']}")
    uv = image.root / UV[1:]
    uv.parent.mkdir(parents=True)
    uv.symlink_to(found or require("uv", hint="`make install` puts it into .tools"))
    python = image.root / "usr/local/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "UV_NO_CACHE", "UV_PROJECT_ENVIRONMENT"):
        environment.pop(name, None)
    workdir = image.root
    for instruction in BUILD.instructions:
        match instruction.name:
            case "WORKDIR":
                workdir = Path(image.inside(instruction.text))
                workdir.mkdir(parents=True, exist_ok=True)
            case "ENV":
                environment |= {
                    name: image.inside(value) for name, value in (word.split("=", 1) for word in instruction.words())
                }
            case "COPY":
                copy(instruction.words(), workdir)
            case "RUN" if "pip install" not in instruction.text or UV in instruction.text:
                subprocess.run(
                    ["/bin/sh", "-ec", image.inside(instruction.text)],
                    cwd=workdir,
                    env=environment,
                    check=True,
                    capture_output=True,
                    timeout=110,
                )
    # The build stage leaves only the files that the final stage copies.
    shutil.rmtree(image.root / "src")
    data = image.root / "data"
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, OTHER_USER_ID, OTHER_USER_ID)
    return image


def copy(words: list[str], workdir: Path) -> None:
    """Does a COPY and respects .dockerignore."""
    *sources, destination = words
    for source in sources:
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.py[co]", "*.egg-info", "example.py")
            shutil.copytree(ROOT / source, workdir / destination, ignore=ignored)
        else:
            shutil.copy(ROOT / source, workdir / destination)


@dataclass
class Container:
    """A running server from the image."""

    process: asyncio.subprocess.Process
    http_port: int = 0

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


@asynccontextmanager
async def running(image: Image, **variables: str) -> AsyncIterator[Container]:
    """Runs the image's CMD as another user. At the end of the block it is stopped as Railway stops it."""
    process = await asyncio.create_subprocess_exec(
        *image.as_other_user,
        *FINAL.all("CMD")[0].exec_form(),
        cwd=image.inside(FINAL.all("WORKDIR")[-1].text),
        env=image.environment(**NEEDED, **variables),
        stdout=asyncio.subprocess.PIPE,
    )
    container = Container(process)
    try:
        async with asyncio.timeout(30):
            async for line in container.lines():
                if line["message"] == "serving":
                    container.http_port = line["http_port"]
                    break
        yield container
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 20)


def files(root: Path) -> set[Path]:
    """Returns every file and directory below `root`, except the data."""
    return {path for path in root.rglob("*") if root / "data" not in path.parents}


def test_both_packages_are_installed_completely(image: Image) -> None:
    where = "import metamorph.client, metamorphd.store; print(metamorph.client.__file__, metamorphd.store.__file__)"
    result = image.run("python", "-c", where)
    assert result.returncode == 0, result.stderr
    assert all(Path(path).is_relative_to(image.root / "opt/metamorph") for path in result.stdout.split())
    assert not list(image.root.rglob("__editable__*"))
    assert all(list(image.root.rglob(f"migrations/{engine.name}/*.sql")) for engine in ENGINES)


def test_the_lock_satisfies_the_requirements_of_the_packages(image: Image) -> None:
    python = image.root / "opt/metamorph/bin/python"
    command = [image.inside(UV), "pip", "check", "--python", str(python)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_installed_file_is_readable_by_any_user(image: Image) -> None:
    closed = [path for path in (image.root / "opt").rglob("*") if not path.stat().st_mode & stat.S_IROTH]
    assert closed == []


def test_the_command_prints_its_help(image: Image) -> None:
    result = image.run("metamorph", "--help")
    assert result.returncode == 0, result.stderr
    assert "serve" in result.stdout


async def test_the_server_runs_as_any_user_and_writes_only_beside_the_database(image: Image) -> None:
    before = files(image.root)
    async with running(image) as container:
        status, body = await asyncio.to_thread(container.health)
        assert (status, body["status"]) == (200, "ok")
        assert {path.name for path in (image.root / "data").iterdir()} >= {"metamorph.db", "metamorph.db-wal"}
        assert all(path.stat().st_uid == os.stat(image.root / "data").st_uid for path in image.root.glob("data/*"))
    assert container.process.returncode == 0
    assert files(image.root) == before


async def test_the_health_check_succeeds_only_while_the_server_answers(image: Image) -> None:
    command = FINAL.all("HEALTHCHECK")[0].exec_form()
    async with running(image) as container:
        port = str(container.http_port)
        assert (await asyncio.to_thread(image.run, *command, PORT=port)).returncode == 0
    assert (await asyncio.to_thread(image.run, *command, PORT=port)).returncode == 1


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_secret_is_reported_in_one_line(image: Image, missing: str) -> None:
    result = image.run("metamorph", "serve", **{name: NEEDED[name] for name in NEEDED if name != missing})
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(rf"metamorph: {missing} is (not set|required in production); .+\n", result.stderr)
