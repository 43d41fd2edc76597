"""Copies of backups in a bucket, without a server."""

import json
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from metamorphd.backups.bucket import Bucket, BucketFailed, Credentials
from metamorphd.backups.remote import Remote
from metamorphd.cli.backups import PRINTED_WIDTH, shown_time
from metamorphd.settings.loading import load_paths
from metamorphd.settings.server import Settings


def remote(url: str, settings: Settings) -> Remote:
    """Returns the copies below an address. Raises StartupRefused."""
    return Remote(Bucket(url, Credentials(**settings.s3_credentials())))


def list_copies(*, as_json: bool) -> None:
    """Prints the complete copies in BACKUP_S3_URL, newest first. Raises ClickException and StartupRefused."""
    settings = load_paths()
    if settings.backup_s3_url is None:
        raise click.ClickException("BACKUP_S3_URL is not set")
    found = remote(settings.backup_s3_url, settings)
    try:
        copies = found.list_copies()
    except BucketFailed as exc:
        raise click.ClickException(f"{settings.backup_s3_url} cannot be read: {exc}") from exc
    if as_json:
        click.echo(json.dumps([{"url": found.url(copy.name), **asdict(copy)} for copy in copies]))
        return
    out = Console(highlight=False, width=None if sys.stdout.isatty() else PRINTED_WIDTH)
    table = Table("copy", "size", "made (UTC)", "read back (UTC)", "rows", "fault")
    for copy in copies:
        table.add_row(
            copy.name,
            f"{copy.size / 1e6:,.1f} MB",
            shown_time(copy.manifest.create_time // 1_000_000),
            shown_time(copy.verify_time // 1_000_000),
            f"{sum(copy.manifest.row_counts.values()):,}",
            "; ".join(copy.faults),
        )
    out.print(table if copies else f"There are no complete copies in {settings.backup_s3_url}.")
