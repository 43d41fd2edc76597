"""The ten-line client examples, run against a live server."""

import asyncio
import os
import sys
from collections.abc import Callable

import pytest

from tests.support.caller import text_of
from tests.support.paths import ROOT
from tests.support.programs import require, typescript_client
from tests.support.serving import Serving
from tests.support.tokens import mint


def python() -> list[str]:
    return [sys.executable, "example.py"]


def node() -> list[str]:
    typescript_client()
    return ["node", "example.js"]


def go() -> list[str]:
    return [require("go", hint="install Go"), "run", "./example"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("language", "command"), [("python", python), ("typescript", node), ("go", go)], ids=["Python", "TypeScript", "Go"]
)
async def test_the_example_prints_the_stored_reply(
    running: Serving, language: str, command: Callable[[], list[str]]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(),
        cwd=ROOT / "clients" / language,
        env={**os.environ, "METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    alice = running.caller()
    page = await alice.sessions()
    sent, reply = await alice.messages(page[0].session_id)
    assert text_of(sent).startswith("Hello from ")
    assert out.decode() == text_of(reply) + "\n"
