"""The Go client as a service gets it, and what the suite for every client does not reach."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.go_module import MODULE, SOURCE, pack
from tests.support.paths import ROOT
from tests.support.programs import missing, require
from tests.support.serving import Serving
from tests.support.tokens import mint

GUIDE = ROOT / "docs" / "client-go.md"
# What the guide's blocks may import, by the name that they use it under.
IMPORTS = {
    "bytes": '"bytes"',
    "chatv1": f'chatv1 "{MODULE}/metamorph/chat/v1"',
    "context": '"context"',
    "errors": '"errors"',
    "fmt": '"fmt"',
    "io": '"io"',
    "http": '"net/http"',
    "log": '"log"',
    "metamorph": f'"{MODULE}/metamorph"',
    "os": '"os"',
    "strings": '"strings"',
    "time": '"time"',
    "vaultv1": f'vaultv1 "{MODULE}/metamorph/vault/v1"',
}
pytestmark = pytest.mark.timeout(300)


def _program_of_go() -> str:
    return require("go", hint="install Go (clients/go/go.mod names the version)")


def go(*arguments: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Returns the output of a command of Go. Fails the test if it fails."""
    run = subprocess.run(
        [_program_of_go(), *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns the environment of commands that find the packed client, and keep it apart from others of its version."""
    packed = pack(tmp_path_factory.mktemp("dist"))
    proxy, cache = go("env", "GOPROXY", "GOMODCACHE", cwd=ROOT).split()
    # The cache has the layout of a proxy: nothing is downloaded twice.
    proxies = [packed.parents[3].as_uri(), (Path(cache) / "cache" / "download").as_uri(), proxy]
    return {
        "GOPROXY": ",".join(proxies),
        "GONOSUMDB": "metamorph.internal",
        "GOMODCACHE": str(tmp_path_factory.mktemp("cache")),
        # So that the cache can be deleted.
        "GOFLAGS": "-modcacherw",
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Returns the directory of a new module that requires the packed client."""
    directory = tmp_path_factory.mktemp("service")
    go("mod", "init", "example.com/service", cwd=directory, environment=environment)
    go("get", f"{MODULE}/metamorph@latest", cwd=directory, environment=environment)
    return directory


def test_the_tests_of_the_client_pass() -> None:
    race = ["-race"] if shutil.which("gcc") else []
    go("test", *race, "./...", cwd=SOURCE)


def test_it_compiles_with_the_oldest_go_that_it_names() -> None:
    oldest = re.search(r"^go (\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert oldest is not None
    toolchain = {"GOTOOLCHAIN": f"go{oldest[1]}"}
    if subprocess.run([_program_of_go(), "version"], env=os.environ | toolchain, check=False).returncode != 0:
        missing(f"Go {oldest[1]} is needed here, and cannot be downloaded")
    go("vet", "./metamorph", cwd=SOURCE, environment=toolchain)


def test_two_packings_of_the_client_are_the_same(tmp_path: Path) -> None:
    first, second = (pack(tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second


async def test_a_new_module_runs_with_the_packed_client(
    running: Serving, service: Path, environment: dict[str, str]
) -> None:
    shutil.copy(SOURCE / "example" / "main.go", service)
    calling = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    printed = await asyncio.to_thread(go, "run", ".", cwd=service, environment=environment | calling)
    assert "Hello from Go" in printed
    assert "replace" not in (service / "go.mod").read_text()


def test_the_blocks_of_the_guide_compile(service: Path, environment: dict[str, str]) -> None:
    shown = re.findall(r"^```go\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    for number, text in enumerate(shown):
        directory = service / f"block{number}"
        directory.mkdir()
        (directory / "block.go").write_text(_program(text))
    go("vet", "./...", cwd=service, environment=environment)


def _program(block: str) -> str:
    """Returns a package whose function is a block of the guide, with the names that earlier blocks have introduced."""
    client = "" if "Dial(" in block else 'client, err := metamorph.Dial("localhost:50051")\n_, _ = client, err\n'
    body = f"func block(ctx context.Context, token, sessionID string) error {{\n{client}{block}return nil\n}}\n"
    imports = "\n".join(path for name, path in IMPORTS.items() if f"{name}." in body)
    return f"package block\n\nimport (\n{imports}\n)\n\nvar _ = block\n\n{body}"
