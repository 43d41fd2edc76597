"""Asks for lines: with an editor on a terminal that can move its cursor, and plainly elsewhere."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import click

from metamorphd.cli.history import History
from metamorphd.settings.environment import state_directory

Suggestions = Callable[[str], Mapping[str, str]]


class Prompt(Protocol):
    """Asks for text."""

    def ask(self, prompt: str = "> ", *, answers: bool = False) -> str | None:
        """Returns what is typed, or None for Ctrl-D and Ctrl-C.

        One that `answers` a question is a line without history and suggestions.
        """


class Lines:
    """Asks for lines where there is no editor. Those of a pasted text are separate."""

    def ask(self, prompt: str = "> ", *, answers: bool = False) -> str | None:
        # Standard output may be a file that the replies are for.
        click.echo(prompt, nl=False, err=True)
        try:
            line = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            line = b""
        if not line:
            click.echo(err=True)
            return None
        return line.decode(errors="replace").removesuffix("\n")


def prompt_of(runner: asyncio.Runner, suggestions: Suggestions, *, history: bool) -> Prompt:
    """Returns what asks for text on this terminal, and keeps a history if that is on."""
    from prompt_toolkit.utils import is_dumb_terminal

    if not (sys.stdin.isatty() and sys.stdout.isatty()) or is_dumb_terminal():
        return Lines()
    from metamorphd.cli.editor import Editor

    directory = state_directory() if history else None
    return Editor(runner, suggestions, History(directory and directory / "metamorph" / "history"))
