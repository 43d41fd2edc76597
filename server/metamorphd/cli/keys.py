"""`metamorph keys`."""

from pathlib import Path
from typing import Any

import click

from metamorphd.cli.connection import operator_options


@click.group()
def keys() -> None:
    """Make and rotate the keys that wrap the keys of secrets."""


@keys.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def create(*, file: Path) -> None:
    """Make FILE with a new key, for TOKEN_ENCRYPTION_KEY_FILE.

    Keep a copy of it apart from the backups: without it, nobody can read the secrets.
    """
    from metamorphd.clock import Clock
    from metamorphd.keys.key_file import add_key

    if file.exists():
        raise click.ClickException(f"{file} exists already; `metamorph keys rotate` adds a key to it")
    try:
        add_key(file, now=Clock().now())
    except OSError as exc:
        raise click.ClickException(f"{file} cannot be made ({exc.strerror})") from exc
    click.echo(f"{file} has a key. Set TOKEN_ENCRYPTION_KEY_FILE to it.")


@keys.command()
@click.option("--no-wait", is_flag=True, help="Return once it is begun; the server goes on.")
@operator_options
def rotate(*, no_wait: bool, **connection: Any) -> None:
    """Have the running server wrap every vault's data key with its current key.

    With TOKEN_ENCRYPTION_KEY_FILE, the server makes a new key first. With TOKEN_ENCRYPTION_KEY, set a new one, move the
    old one to TOKEN_ENCRYPTION_KEY_PREVIOUS and start the server again before. Exits with 1 if there are data keys
    whose key the server does not have.
    """
    from metamorphd.cli.key_rotation import rotate_keys

    rotate_keys(wait=not no_wait, **connection)


@keys.command()
@operator_options
def status(**connection: Any) -> None:
    """Show the current key, its age, and how many data keys it does not wrap yet."""
    from metamorphd.cli.key_rotation import show_keys

    show_keys(**connection)
