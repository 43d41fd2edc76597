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
from metamorphd.priority import lower_priority_of

PROGRAM = "litestream"
# A command that has written nothing for so long waits for a bucket that does not answer.
STALLED_SECONDS = 60.0
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
        for left in _files(path):
            left.unlink()
        await self._run("restore", "-o", str(path), self._url, writes=path)

    async def _run(self, *arguments: str, writes: Path | None = None) -> bytes:
        """Returns the output of a command. Raises ReplicaFailed, also if the files that it `writes` stop growing."""
        try:
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                *arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # A group of its own, which uvloop makes in this way only.
                start_new_session=True,
            )
        except OSError as exc:
            raise ReplicaFailed(f"the litestream command cannot be run ({exc})") from exc
        lower_priority_of(process.pid)
        running = asyncio.ensure_future(process.communicate())
        try:
            await _finish(running, writes)
            out, err = running.result()
        finally:
            running.cancel()
            # Cancelled, it would go on.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            raise ReplicaFailed(_last_line(err) or f"litestream ended with {process.returncode}")
        return out


async def _finish(running: asyncio.Future[Any], writes: Path | None) -> None:
    """Returns once a command has ended. Raises ReplicaFailed as soon as it makes no progress."""
    size = 0
    while not (await asyncio.wait({running}, timeout=STALLED_SECONDS))[0]:
        before, size = size, _size(writes) if writes else 0
        if size <= before:
            raise ReplicaFailed(f"the replica has sent nothing for {STALLED_SECONDS:.0f} seconds")


def _size(path: Path) -> int:
    """Returns the bytes that a restore has written so far."""
    size = 0
    for file in _files(path):
        # Renamed meanwhile: then it is complete.
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def _files(path: Path) -> list[Path]:
    """Returns a file that is restored, and what Litestream calls it until it is complete."""
    return list(path.parent.glob(f"{path.name}*"))


def _last_line(text: bytes) -> str:
    lines: list[Any] = text.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ")[:LONGEST_ERROR] if lines else ""
