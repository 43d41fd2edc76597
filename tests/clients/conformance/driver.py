"""The process that has a language's client, and does what the lines of its standard input say."""

import asyncio
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ANSWER_SECONDS = 30.0
# An answer can hold a few hundred events.
LONGEST_LINE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Command:
    """How the driver of a language is started."""

    arguments: list[str]
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)


class Driver:
    """Runs a driver while it is entered. One command is done after the other, in the order of `ask`."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._number = 0
        self._reading = asyncio.Lock()
        self._noted = 0
        self.stopped = False

    async def __aenter__(self) -> Self:
        self._notes = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = await asyncio.create_subprocess_exec(
            *self._command.arguments,
            cwd=self._command.directory,
            env={**os.environ, **self._command.environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._notes,
            limit=LONGEST_LINE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"the driver does not end after its standard input\n{self.notes()}") from None
        finally:
            notes = self.notes()
            self._notes.close()
        assert code == 0 or self.stopped, notes

    def ask(self, command: dict[str, Any]) -> "asyncio.Task[dict[str, Any]]":
        """Writes a command, and returns its answer to come."""
        assert self._process.stdin is not None
        self._number += 1
        self._process.stdin.write(json.dumps({"id": self._number, **command}).encode() + b"\n")
        return asyncio.create_task(self._answer(self._number))

    async def _answer(self, number: int) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with self._reading, asyncio.timeout(ANSWER_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise AssertionError(f"the driver does not answer\n{self.notes()}") from None
        assert line, f"the driver has ended\n{self.notes()}"
        answer: dict[str, Any] = json.loads(line)
        assert answer["id"] == number, answer
        return answer

    def stop(self) -> None:
        """Ends a driver that cannot be relied on any more."""
        self.stopped = True
        if self._process.returncode is None:
            self._process.kill()

    def notes(self) -> str:
        """Returns the end of what the driver wrote to its standard error since the last time."""
        # Not by seeking: the driver writes at the same position.
        found = os.pread(self._notes.fileno(), LONGEST_LINE, self._noted)
        self._noted += len(found)
        return found.decode(errors="replace")[-4000:]
