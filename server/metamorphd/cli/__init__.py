"""The `metamorph` command. A command imports what it needs when it runs, so that `--help` is quick."""

import errno
import os
import sys
from typing import NoReturn

import click

from metamorphd.cli.audit import audit
from metamorphd.cli.backup import backup
from metamorphd.cli.chat import chat
from metamorphd.cli.check import check
from metamorphd.cli.complete import complete
from metamorphd.cli.figures import models, usage
from metamorphd.cli.keys import keys
from metamorphd.cli.login import login, logout
from metamorphd.cli.serve import dev, serve
from metamorphd.cli.sessions import sessions
from metamorphd.cli.token import token
from metamorphd.cli.turns import turns
from metamorphd.cli.vault import vault
from metamorphd.settings.environment import silence_core


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="metamorphd")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Metamorph: a multi-tenant chat backend, served over gRPC."""
    if ctx.invoked_subcommand not in ("serve", "dev"):
        silence_core()


COMMANDS = (
    *(dev, serve, token, check, backup, keys, vault, audit),
    *(chat, sessions, turns, models, usage, login, logout, complete),
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Runs the command. An error that prevents it from starting or going on is printed as one line on stderr."""
    try:
        sys.exit(cli.main(prog_name="metamorph", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        _fail(exc)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            if exc.filename is None:
                raise
            _fail(click.FileError(os.fsdecode(exc.filename), exc.strerror))
        click.echo("metamorph: the output cannot be written, its disk is full; free some space", err=True)
        # What is left of it would be tried again, and fail again.
        os._exit(1)
    except Exception as exc:
        from metamorphd.errors import ServerFailed, StartupRefused

        if not isinstance(exc, (StartupRefused, ServerFailed)):
            raise
        click.echo(f"metamorph: {exc}", err=True)
        sys.exit(1)


def _fail(exc: click.ClickException) -> NoReturn:
    """Prints a line about an error and exits with its code, which is 2 if the command was given wrong arguments."""
    text = " ".join(exc.format_message().split())
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        text += f" (see `{exc.ctx.command_path} --help`)"
    click.echo(f"Error: {text}", err=True)
    sys.exit(exc.exit_code)
