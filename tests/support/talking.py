"""Conversations in a terminal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.command import METAMORPH
from tests.support.terminal import Terminal, terminal
from tests.support.tokens import mint


@asynccontextmanager
async def talking(
    target: str, directory: Path, *options: str, environment: str = "", token: str = ""
) -> AsyncIterator[Terminal]:
    """A conversation that waits for a message, in an `environment` of one variable more."""
    command = [*METAMORPH, "chat", "--target", target, "--token", token or mint(), *options]
    async with terminal(directory, *(("env", environment) if environment else ()), *command) as shown:
        await prompted(shown)
        yield shown


async def say(shown: Terminal, text: str) -> None:
    """Types a line and presses Enter."""
    await shown.type(text)
    await shown.press("Enter")


async def prompted(shown: Terminal) -> str:
    """Waits for the prompt. Returns the screen."""
    return await shown.until(lambda screen: screen.endswith("\n>"))
