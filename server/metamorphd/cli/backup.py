"""`metamorph backup`."""

from pathlib import Path
from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import operator_options


@click.group()
def backup() -> None:
    """Make, list, verify, download and restore backups of the whole store.

    All but `restore` ask the running server, which needs no shell access. On Railway: `railway ssh -- metamorph backup
    create`.
    """


@backup.command()
@click.option("--no-wait", is_flag=True, help="Return once it is begun; the server goes on.")
@operator_options
def create(*, no_wait: bool, **connection: Any) -> None:
    """Make a backup and verify it, while the server serves."""
    from metamorphd.cli.backups import run

    run(lambda client: client.create(wait=not no_wait), **connection)


@backup.command("list")
@click.option("--remote", is_flag=True, help="List the copies in BACKUP_S3_URL instead, which needs no server.")
@operator_options
def list_(*, remote: bool, **connection: Any) -> None:
    """List the backups, newest first."""
    from metamorphd.cli.backups import run

    if remote:
        from metamorphd.cli.copies import list_copies

        list_copies(as_json=connection["as_json"])
        return
    run(lambda client: client.list(), **connection)


@backup.command()
@click.argument("name", type=TEXT, required=False)
@operator_options
def verify(*, name: str | None, **connection: Any) -> None:
    """Read all of backup NAME, by default the newest, check it for damage and compare it with its manifest."""
    from metamorphd.cli.backups import run

    run(lambda client: client.verify(name), **connection)


@backup.command()
@click.argument("name", type=TEXT, required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write.  [default: NAME, here]")
@operator_options
def download(*, name: str | None, output: Path | None, **connection: Any) -> None:
    """Download backup NAME, by default the newest good one, and verify its SHA-256.

    Run again, it continues where it was interrupted.
    """
    from metamorphd.cli.backups import run

    run(lambda client: client.download(name, output), **connection)


@backup.command()
@click.argument("name", type=TEXT)
@operator_options
def delete(*, name: str, **connection: Any) -> None:
    """Delete backup NAME."""
    from metamorphd.cli.backups import run

    run(lambda client: client.delete(name), **connection)


@backup.command()
@click.option("--dry-run", is_flag=True, help="Delete nothing; show what would be.")
@operator_options
def prune(*, dry_run: bool, **connection: Any) -> None:
    """Delete the backups that are older than BACKUP_RETENTION_DAYS, but never the newest good one of a database.

    The server does so itself after each backup.
    """
    from metamorphd.cli.backups import run

    run(lambda client: client.prune(dry_run=dry_run), **connection)


@backup.command()
@click.argument("source", type=TEXT, metavar="NAME|FILE|S3-URL")
@click.option(
    "--to", "target", type=click.Path(dir_okay=False, path_type=Path), help="Database file.  [default: DATABASE_PATH]"
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; requires --yes.")
def restore(*, source: str, target: Path | None, yes: bool, as_json: bool) -> None:
    """Put a backup in the place of the database. Stop the server first.

    S3-URL is a copy, s3://bucket/prefix/NAME, or s3://bucket/prefix for the newest good one there. FILE may be one too.

    The backup is verified before anything changes, and what is lost is shown. The old database is kept beside the new
    one. Interrupted at any moment, the database is the old one or the new one.
    """
    if as_json and not yes:
        raise click.UsageError("--json does not ask; add --yes")
    from metamorphd.cli.restoring import restore_backup

    restore_backup(source, target=target, ask=not yes, as_json=as_json)
