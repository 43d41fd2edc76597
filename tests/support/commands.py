"""The commands of `metamorph`, by their paths."""

from collections.abc import Iterator

import click
from metamorphd.cli import cli


def _commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(_commands(cli))
# Those that call a server.
CLIENTS = [path for path, command in COMMANDS.items() if {"target", "token"} <= {each.name for each in command.params}]
