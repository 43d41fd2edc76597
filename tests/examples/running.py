"""Recipes as a reader of docs/recipes.md runs them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes import SOURCES

EXAMPLES = ROOT / "examples"
BROWSER = EXAMPLES / "browser"
START_SECONDS = 20


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCES, **variables}


async def printed(recipe: str, *arguments: str, cwd: Path, **variables: str) -> tuple[int | None, str, str]:
    """Returns the exit code, the standard output and the standard error of a recipe in Python."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / recipe), *arguments),
        cwd=cwd,
        env=environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def web(
    command: Sequence[str], *, cwd: Path, port: int | None = None, **variables: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Runs a web server that listens on the port in PORT, and yields a client of it once it answers."""
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=environment(PORT=str(port), **variables))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            async with asyncio.timeout(START_SECONDS):
                while not await answers(client):
                    assert process.returncode is None, "the recipe has ended"
                    await asyncio.sleep(0.05)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        await client.get("/")
    except httpx.ConnectError:
        return False
    return True


def uvicorn(directory: Path, app: str, port: int) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "--app-dir", str(directory), app, "--port", str(port)]
