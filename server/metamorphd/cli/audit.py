"""`metamorph audit`."""

from pathlib import Path
from typing import Any

import click

from metamorphd.cli.connection import operator_options

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def audit() -> None:
    """Verify the logs of vaults."""


@audit.command()
@click.option("--anchors", type=_FILE, help="File with heads: log lines, or what this command or `heads` printed.")
@click.option("--certificates", type=_FILE, help="PEM file of the certificates to trust for time stamps of heads.")
@operator_options
def verify(*, anchors: Path | None, certificates: Path | None, **connection: Any) -> None:
    """Have the running server verify every vault's log, and its own.

    Exits with 1 if an entry was changed, moved, added or left out. What was cut off the end of a log, or rewritten by
    somebody with the key, is found by --anchors, whose own time stamps are verified with --certificates. With --json,
    it prints a line for each part, with heads to keep.
    """
    from metamorphd.cli.audit_verification import verify_logs

    verify_logs(anchors=anchors, certificates=certificates, **connection)


@audit.command()
@click.argument("backup", type=_FILE)
def heads(*, backup: Path) -> None:
    """Print the heads of the logs in BACKUP, a file, as --anchors takes them, and last their digest.

    The digest is to be that of the backup's manifest, `log_heads`. Its time stamp is printed too, if the manifest lies
    beside the backup and has one.
    """
    from metamorphd.cli.audit_verification import show_heads

    show_heads(backup)
