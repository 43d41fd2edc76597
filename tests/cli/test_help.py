"""`metamorph --help` is fast because it imports no slow modules."""

import asyncio
import subprocess
import sys

import pytest
from metamorphd.cli import cli

from tests.support.command import METAMORPH

# Each takes about a tenth of a second to import, or imports another of these.
SLOW = {
    "anthropic",
    "apsw",
    "cryptography",
    "google",
    "grpc",
    "metamorph_client",
    "prompt_toolkit",
    "pydantic_settings",
    "rich",
    "uvloop",
}


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.commands)], ids=" ".join)
async def test_help_imports_no_slow_modules(arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "metamorphd", *arguments, "--help"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in err.decode().splitlines()}
    assert out.startswith(b"Usage: ")
    assert "click" in imported
    assert not imported & SLOW


def test_output_that_has_no_room_is_one_line_on_standard_error() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*METAMORPH, "check"], check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "disk is full" in ended.stderr
