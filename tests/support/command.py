"""Runs the `metamorph` command as a process."""

import asyncio
import os
import sys

METAMORPH = [sys.executable, "-m", "metamorphd"]


async def run(*arguments: str, typed: str = "", **environment: str) -> tuple[int | None, str, str]:
    """Returns (exit code, standard output, standard error)."""
    process = await asyncio.create_subprocess_exec(
        *METAMORPH,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await asyncio.wait_for(process.communicate(typed.encode(errors="surrogateescape")), 60)
    return process.returncode, out.decode(), err.decode()
