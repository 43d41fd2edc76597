"""The `litestream` command, which reads a replica wherever it is."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from metamorphd.errors import ReplicaFailed

PROGRAM = "litestream"
LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class Position:
    """The last transaction of a replica, and when it arrived there, in microseconds since the epoch."""

    transaction: str
    time: int


class Litestream:
    """Reads the replica at `url`. `environment` is that of the command, with the credentials."""

    def __init__(self, *, url: str, environment: Mapping[str, str]) -> None:
        self._url = url
        self._environment = environment

    async def newest(self) -> Position:
        """Returns the newest state that can be restored. Raises ReplicaFailed."""
        # Nothing is written there.
        plan = await self._run("restore", "-dry-run", "-json", "-o", "unwritten", self._url)
        try:
            planned = orjson.loads(plan)
            arrived = datetime.fromisoformat(planned["files"][-1]["timestamp"])
            return Position(planned["max_txid"], int(arrived.timestamp() * 1e6))
        except (ValueError, KeyError, IndexError, TypeError) as exc:
            raise ReplicaFailed(f"litestream's plan is not understood ({exc!r})") from exc

    async def restore(self, path: Path) -> None:
        """Restores the newest state to a file, in the place of whatever is there. Raises ReplicaFailed."""
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink()
        await self._run("restore", "-o", str(path), self._url)

    async def _run(self, *arguments: str) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                *arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as exc:
            raise ReplicaFailed(f"the litestream command cannot be run ({exc})") from exc
        try:
            out, err = await process.communicate()
        finally:
            # Cancelled, it would go on.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            raise ReplicaFailed(_last_line(err) or f"litestream ended with {process.returncode}")
        return out


def _last_line(text: bytes) -> str:
    lines: list[Any] = text.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ")[:LONGEST_ERROR] if lines else ""
