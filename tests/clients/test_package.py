"""The Python client as it is installed: by pip, into an environment that has nothing of this repository."""

import asyncio
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.paths import ROOT
from tests.support.serving import asking
from tests.support.tokens import mint

PROGRAM = Path(__file__).parent / "programs" / "typed.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel with pip, as `pip install ./clients/python` does."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", directory / "builder"], check=True)
    options = ["--quiet", "--no-deps", "--wheel-dir", str(directory)]
    command = [str(directory / "builder" / "bin" / "pip"), "wheel", *options, str(ROOT / "clients" / "python")]
    subprocess.run(command, check=True, cwd=directory)
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """Returns the interpreter of an environment with the wheel, and the libraries of this one."""
    environment = wheel.parent / "fresh"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    found = environment / "bin" / "python"
    subprocess.run([found, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    # Only what it depends on: .pth files in there, such as that of the editable installation, have no effect.
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return found


def test_the_wheel_has_the_package_its_types_and_its_readme(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {name.partition("/")[0] for name in names} == {"metamorph_client", "metamorph_client-0.1.0.dist-info"}
    assert {"metamorph_client/py.typed", "metamorph_client/channel.json"} <= set(names)
    assert "# metamorph-client" in metadata
    assert "Requires-Dist: types-grpcio>=1.85; extra == 'types'" in metadata


async def output_of(*command: str | Path, cwd: Path, env: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


@pytest.mark.timeout(300)
async def test_a_strictly_typed_program_runs_with_the_installed_package(tmp_path: Path, python: Path) -> None:
    # Without this repository's own paths and settings.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.read_text())
    options = ["--strict", "--config-file=", f"--python-executable={python}"]
    await output_of(sys.executable, "-m", "mypy", *options, program, cwd=tmp_path, env=clean)
    async with FakeMessagesApi() as api, asking(api, tmp_path) as running:
        caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
        out = await output_of(python, program, cwd=tmp_path, env={**clean, **caller})
    assert out.splitlines() == [
        "YOU SAID: HELLO2",
        "2",
        "NOT_FOUND SESSION_NOT_FOUND 0.0",
        "Typed You said: Bye 0.1.0",
    ]
