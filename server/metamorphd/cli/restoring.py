"""Restores a backup, without a server."""

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TransferSpeedColumn

from metamorphd.backups.ledger import Ledger
from metamorphd.backups.restore import Restorable, Restore
from metamorphd.backups.sources import PlainFile, Source
from metamorphd.settings.loading import load_paths
from metamorphd.settings.server import Settings

SHOWN_TABLES = ("sessions", "messages", "turns", "revocations")


def restore_backup(source: str, *, target: Path | None, ask: bool, as_json: bool) -> None:
    """Restores a backup, by its name, file or address, and prints what was done.

    Raises ClickException and StartupRefused.
    """
    settings = load_paths()
    backup, database = _source(source, settings), target or settings.database_path
    ledger = Ledger(database=database, backups=settings.backup_path)
    notes = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TransferSpeedColumn())
    restore = Restore(backup, database)
    progress = Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)
    with progress:
        task = progress.add_task("copying and verifying", total=backup.size)

        def report(share: float) -> None:
            progress.update(task, completed=share * backup.size)

        with restore.prepared(progress=report) as restorable:
            progress.stop()
            lines = list(_losses(restorable))
            if ask:
                for line in lines:
                    notes.print(line, markup=False)
                click.confirm(f"Put {backup.name} in the place of {database}?", abort=True, err=True)
            # First: no server may have the backup without what was deleted since.
            erased = ledger.bring(backup.ledger())
            aside = restore.apply(aside=_aside(database))
    if as_json:
        result = {"database": str(database), "restored": backup.name, "aside": aside and str(aside)}
        click.echo(json.dumps(result | {"rows": dict(restorable.rows), "lost": _known(restorable)}))
        return
    if erased:
        lines.append("Vaults that were deleted stay so: the server erases them when it starts.")
    for line in () if ask else lines:
        click.echo(line)
    kept = f" The one before is {aside}." if aside else ""
    click.echo(f"{database} is restored from {backup.name}.{kept} Start the server.")


def _source(source: str, settings: Settings) -> Source:
    if source.startswith("s3://"):
        from metamorphd.backups.packed_sources import RemoteCopy, split_url
        from metamorphd.backups.packing import parse_keys
        from metamorphd.cli.copies import remote

        url, name = split_url(source)
        return RemoteCopy(remote(url, settings), name, keys=parse_keys(settings.encryption_keys))
    file = _file(source, settings.backup_path)
    if file.suffix in (".zst", ".age"):
        from metamorphd.backups.packed_sources import PackedFile
        from metamorphd.backups.packing import parse_keys

        return PackedFile(file, keys=parse_keys(settings.encryption_keys))
    return PlainFile(file)


def _file(source: str, directory: Path) -> Path:
    """Returns the file of a backup: a path, or the name of one in the directory of backups."""
    named = directory / source
    if "/" not in source and named.is_file():
        return named
    if Path(source).is_file():
        return Path(source)
    raise click.ClickException(f"there is no file {source}, and no backup of that name in {directory}")


def _aside(database: Path) -> Path:
    """Returns a name for the old database that is not in use."""
    name = f"{database.name}.before-{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}"
    names = [name, *(f"{name}-{number}" for number in range(1, 100))]
    return next(database.with_name(name) for name in names if not database.with_name(name).exists())


def _known(restorable: Restorable) -> dict[str, int] | None:
    return None if restorable.lost is None else dict(restorable.lost)


def _losses(restorable: Restorable) -> "list[str]":
    manifest = restorable.manifest
    lines = []
    if manifest is not None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.create_time / 1e6))
        minutes = (time.time() - manifest.create_time / 1e6) / 60
        lines.append(f"The backup is of {moment} UTC, {minutes:,.0f} minutes ago. What was stored since is lost.")
    if restorable.lost is None:
        lines.append("The database cannot be read, so what is lost is not known.")
    else:
        lost = {table: restorable.lost.get(table, 0) for table in SHOWN_TABLES}
        counted = ", ".join(f"{count:,} {table}" for table, count in lost.items())
        lines.append(f"The database has more than the backup: {counted}.")
    return lines
