"""Runs the blocks of every page: one shell for each page, one `make run` server for all of them."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, RUN, SHOWN, Block, blocks
from tests.support.paths import ROOT
from tests.support.programs import require, typescript_client
from tests.support.tokens import SECRET

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUNNABLE = [page for page in PAGES if any(block.is_run for block in blocks(page))]
NOT_RUN = [block for block in BLOCKS if block.reason is not None]
FILES = [block for block in BLOCKS if block.file is not None]
SCRIPTS = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix] + [ROOT / ".ci" / "run"]
HINTS = {
    "promtool": "apt-get install prometheus",
    "grpcurl": "`make tools`",
    "litestream": "`make tools`",
    "node": "Node 20, then `make tools`",
    "go": "Go",
}
# This test runs in an installed environment, so `make` must not install it again.
MAKE = ["make", "-o", ".venv/.installed"]
# Excerpts of the output that a page's blocks must print.
PRINTED = {
    "README.md": [
        "offline model",
        "metamorph.chat.v1.ChatService",
        "Hello from Python",
        "Hello from TypeScript",
        "Hello from Go",
    ],
    "docs/audit.md": ['"CHANGED_RESOURCE_SESSION"', '"operator"', '"permission": "operator"', "0 faults"],
    "docs/authentication.md": ['"vault_id": "team-a"', 'user_id: "user-7"', '"mallory"'],
    "docs/backup-and-restore.md": ["ready", "is restored from"],
    "docs/budgets.md": ['"label": "feature=search"', '"user_id"', '"tokens_per_day"'],
    "docs/chat.md": ["Continue with --session"],
    "docs/conversations.md": ['"turn_finished"', '"prices"'],
    "docs/first-service.md": ['"from":"customer"', "Where is my order?", "Only once"],
    "docs/grpcurl.md": ["// Stores a message", "SESSION_NOT_FOUND", "refused with", "turn_finished", "memory_id"],
    "docs/getting-started.md": ['vault_id: "team-a"', "output tokens"],
    "docs/monitoring.md": [
        "metamorph_turns_total{",
        "metamorph_build_info{",
        "SUCCESS",
        "OTEL_EXPORTER_OTLP_ENDPOINT has port 4317",
        '"checks":{"serving":"ok"',
    ],
    "docs/leaving.md": [
        "VAULT_DELETED",
        "OPERATION_KIND_ERASE_VAULT",
        "team-z can be used again",
        '"retention_days": 90',
    ],
    "docs/long-work.md": ['"operation_id"', '"unit": "percent"'],
    "docs/recipes.md": ["offline model", "label:team=web has no tokens", "50 tokens_per_day used, 0 left"],
    "docs/replicas.md": ["serving"],
    "docs/vaults.md": ["first used", '"session_count": "1"', "is suspended", "VAULT_SUSPENDED", "is active"],
    "docs/secrets.md": ["Zmlyc3Q=", "version 2 is second", "destroy_time", "has a key", '"left": 0'],
    "docs/memories.md": ["Ada lives in Oslo", '"superseded_by"', "0.67 Ada drinks green tea", "memories_recalled"],
    "docs/operating.md": [
        '{"status":"ok"',
        '"status": "SERVING"',
        "metamorph_calls_total{",
        "metamorph.db-wal",
        "0 failed",
        "x-frame-options: DENY",
    ],
}


@dataclass(frozen=True)
class Dev:
    """A checkout without the developer's own files, and the server that `make run` started in it."""

    checkout: Path
    target: str
    http: str

    def with_ports(self, text: str) -> str:
        """Replaces the default ports with the ports of this server."""
        return text.replace("localhost:50051", self.target).replace("localhost:3001", self.http)


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of this process without the variables that make passes to a nested make."""
    return {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS", name)} | variables


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    checkout = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in (".env", ".git", "data"):
            (checkout / path.name).symlink_to(path)
    process = subprocess.Popen(
        [*MAKE, "run"],
        cwd=checkout,
        env=environment(
            PORT="0", GRPC_PORT="0", EMBLEM_JWT_SECRET=SECRET, TOKEN_ENCRYPTION_KEY=SECRET[::-1], AUDIT_KEY=SECRET * 2
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stderr is not None
            printed = process.stderr.readline()
            match = re.search(r"gRPC on (\S+) and HTTP on http://(\S+)/health", printed)
            assert match, printed
            yield Dev(checkout, *match.groups())
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=20)


def script(page: Path, dev: Dev) -> str:
    """Returns all blocks of a page as one script, so that a block can use variables set by an earlier one."""
    lines = ["set -euo pipefail"]
    for number, block in enumerate(blocks(page)):
        if not block.is_run:
            continue
        lines.append(f"echo '# {block}'")
        if block.language == "python":
            file = dev.checkout / f"{page.stem}_{number}.py"
            file.write_text(dev.with_ports(block.text))
            lines.append(f".venv/bin/python {file.name}")
        else:
            lines.append(dev.with_ports(block.text))
    return "\n".join(lines)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, dev: Dev) -> None:
    text = script(page, dev)
    for program, hint in HINTS.items():
        if re.search(rf"\b{program} ", text):
            require(program, hint=hint)
    if "clients/typescript" in text:
        typescript_client()
    result = subprocess.run(
        ["bash", "-c", text],
        cwd=dev.checkout,
        env=environment(EMBLEM_JWT_SECRET=SECRET, METAMORPH_TARGET=dev.target),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    missing = [part for part in PRINTED.get(str(page.relative_to(ROOT)), []) if part not in result.stdout]
    assert missing == [], result.stdout


def test_every_page_with_expected_output_is_run() -> None:
    assert set(PRINTED) <= {str(page.relative_to(ROOT)) for page in RUNNABLE}


def test_every_block_is_run_or_states_why_not() -> None:
    assert [str(block) for block in BLOCKS if block.language not in RUN | SHOWN and block.file is None] == []


@pytest.mark.parametrize("block", FILES, ids=str)
def test_a_block_that_shows_a_file_matches_the_file(block: Block) -> None:
    assert block.text == (ROOT / str(block.file)).read_text()


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_a_block_that_is_not_run_is_valid_bash(block: Block) -> None:
    assert block.language in ("bash", "sh")
    result = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_valid_bash(path: Path) -> None:
    result = subprocess.run(["bash", "-n", path], text=True, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text()


def test_the_readme_opens_with_two_commands() -> None:
    assert [block.text for block in blocks(README)[:2]] == ["make run\n", "make test\n"]
