"""Completion of commands, in a terminal with each shell that `metamorph complete` knows."""

import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.command import METAMORPH, run
from tests.support.programs import require
from tests.support.terminal import Terminal, terminal

# By shell, the file that the completion is in, the file with which a shell begins, and its lines.
STARTED = {
    "bash": (".metamorph-complete", ".bashrc", ". ~/.metamorph-complete"),
    "zsh": (".metamorph-complete", ".zshrc", "autoload -Uz compinit && compinit\n. ~/.metamorph-complete"),
    "fish": (".config/fish/completions/metamorph.fish", ".config/fish/config.fish", "function fish_greeting; end"),
}


@asynccontextmanager
async def _shell(name: str, home: Path) -> AsyncIterator[Terminal]:
    """A shell that completes `metamorph`, in a home of its own, where there are the profiles staging and production."""
    program = require(name, hint=f"install {name}")
    code, completion, _ = await run("complete", name)
    assert code == 0
    file, beginning, lines = STARTED[name]
    profiles = {f".config/metamorph/profiles/{profile}.json": "{}" for profile in ("staging", "production")}
    command = f'#!/bin/sh\nexec {shlex.join(METAMORPH)} "$@"\n'
    for path, text in {file: completion, beginning: f"{lines}\n", "bin/metamorph": command, **profiles}.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text)
    (home / "bin/metamorph").chmod(0o700)
    environment = [f"HOME={home}", f"ZDOTDIR={home}", f"XDG_CONFIG_HOME={home}/.config", f"XDG_DATA_HOME={home}/.data"]
    path = f"PATH={home}/bin:/usr/local/bin:/usr/bin:/bin"
    async with terminal(home, "env", *environment, path, program, "-i") as shown:
        yield shown


def _typed(line: str) -> Callable[[str], bool]:
    # A line that is longer than the terminal is wrapped.
    return lambda screen: screen.replace("\n", "").endswith(line)


@pytest.mark.parametrize("name", STARTED)
async def test_a_shell_completes_commands_options_and_profiles(name: str, tmp_path: Path) -> None:
    async with _shell(name, tmp_path) as shown:
        for typed, line in (
            ("metamorph sess", "metamorph sessions"),
            ("ex", "metamorph sessions export"),
            ("--form", "metamorph sessions export --format"),
            ("j", "metamorph sessions export --format json"),
            ("--profile st", "metamorph sessions export --format json --profile staging"),
        ):
            await shown.type(typed)
            await shown.press("Tab")
            await shown.until(_typed(line))
