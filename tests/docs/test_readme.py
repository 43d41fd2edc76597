"""What a page tells people to type works, as they would type it: one shell a page, beside `make run`."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, RUN, Block, blocks
from tests.support.paths import ROOT
from tests.support.programs import require
from tests.support.tokens import SECRET

RUNNABLE = [page for page in PAGES if any(block.language in RUN and not block.reason for block in blocks(page))]
LEFT_OUT = [block for page in PAGES for block in blocks(page) if block.reason]
SCRIPTS = [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
HINTS = {"grpcurl": "`make tools`", "node": "Node 20, then `make tools`", "go": "Go"}
# Installed is what runs this test; an older date of the checkout's files must not install again.
MAKE = ["make", "-o", ".venv/.installed"]


@dataclass(frozen=True)
class Dev:
    """A checkout without a developer's own files, and the server that `make run` started in it."""

    checkout: Path
    target: str
    http: str

    def here(self, text: str) -> str:
        """A page's text, with this server's ports instead of the usual ones."""
        return text.replace("localhost:50051", self.target).replace("localhost:3001", self.http)


def environment(**variables: str) -> dict[str, str]:
    """This one, without what an outer make leaves to an inner one."""
    return {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS", name)} | variables


@asynccontextmanager
async def make_run(checkout: Path) -> AsyncIterator[Dev]:
    """Types the README's first command, on free ports."""
    process = await asyncio.create_subprocess_exec(
        *MAKE,
        "run",
        cwd=checkout,
        env=environment(PORT="0", GRPC_PORT="0", EMBLEM_JWT_SECRET=SECRET),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            said = (await process.stderr.readline()).decode()
        match = re.search(r"gRPC on (\S+) and HTTP on http://(\S+)/health", said)
        assert match, said
        yield Dev(checkout, *match.groups())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 20)


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".env", ".git", "data"):
            (checkout / path.name).symlink_to(path)
    async with make_run(checkout) as running:
        yield running


def script(page: Path, dev: Dev) -> str:
    """A page's blocks in one script, so that a later block has what an earlier one has set."""
    lines = ["set -euo pipefail"]
    for number, block in enumerate(blocks(page)):
        if block.language not in RUN or block.reason:
            continue
        lines.append(f"echo '# {block}'")
        if block.language == "python":
            file = dev.checkout / f"block_{number}.py"
            file.write_text(dev.here(block.text))
            lines.append(f".venv/bin/python {file.name}")
        else:
            lines.append(dev.here(block.text))
    return "\n".join(lines)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
async def test_what_a_page_tells_people_to_type_works(page: Path, dev: Dev) -> None:
    text = script(page, dev)
    for program, hint in HINTS.items():
        if re.search(rf"\b{program} ", text):
            require(program, hint=hint)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        text,
        cwd=dev.checkout,
        env=environment(EMBLEM_JWT_SECRET=SECRET, METAMORPH_TARGET=dev.target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    if page.name == "README.md":
        for expected in (
            "offline model",
            "metamorph.chat.v1.ChatService",
            '"vault_id": "dev-vault"',
            '"turn_finished"',
            "Hello from Python",
            "Hello from TypeScript",
            "Hello from Go",
            '{"status":"ok"',
            "metamorph_calls_total{",
            '"status": "SERVING"',
        ):
            assert expected in said


def test_the_readme_is_run() -> None:
    assert ROOT / "README.md" in RUNNABLE


@pytest.mark.parametrize("block", LEFT_OUT, ids=str)
def test_what_is_not_run_is_sound_bash_at_least(block: Block) -> None:
    assert block.language in ("bash", "sh")
    result = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_scripts_are_sound_bash(path: Path) -> None:
    result = subprocess.run(["bash", "-n", path], text=True, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text()
