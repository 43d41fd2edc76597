"""Writes a database file of generated messages: `python -m tests.support.generated.generate FILE`."""

import asyncio
import time
from pathlib import Path

import apsw
import click
from metamorphd.store.sqlite.database import SqliteDatabase
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.support.generated.layout import ERASABLE, Layout
from tests.support.generated.stock import Stock

MESSAGES, VAULTS = 400_000, 200
# Nobody else has the file open, and an interrupted run begins again: nothing needs to be durable before the end.
SUFFIXES = ("", "-wal", "-shm", "-check", ".lock")
PRAGMAS = (
    "journal_mode = OFF",
    "synchronous = OFF",
    "locking_mode = EXCLUSIVE",
    "foreign_keys = OFF",
    "cache_size = -500000",
)


def generate(path: Path, layout: Layout, progress: Progress) -> None:
    """Writes a file. It has its name once it is complete: until then that ends in `.part`."""
    part = path.with_name(path.name + ".part")
    for suffix in SUFFIXES:
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    asyncio.run(create(part))
    task = progress.add_task(f"generating {path.name}", total=layout.total)
    connection = apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE)
    for pragma in PRAGMAS:
        connection.execute("PRAGMA " + pragma).fetchall()
    stock = Stock(connection, advance=lambda messages: progress.update(task, advance=messages))
    for vault in layout.plans():
        stock.write(vault)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()
    progress.remove_task(task)
    for suffix in SUFFIXES[1:]:
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    part.rename(path)


async def create(path: Path) -> None:
    """Creates an empty database by the server's own migrations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    async with SqliteDatabase(path=path, synchronous="NORMAL"):
        pass


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--messages", default=MESSAGES, show_default=True, help="Messages, of which a quarter is in one vault.")
@click.option("--vaults", type=click.IntRange(2), default=VAULTS, show_default=True, help="Vaults.")
@click.option(
    "--erasable", default=ERASABLE, show_default=True, help="Sessions of 20,000 messages that are there to be deleted."
)
def main(file: Path, messages: int, vaults: int, erasable: int) -> None:
    """Write FILE, a database of generated vaults, for measuring.

    Interrupted, it leaves FILE.part, which the next run replaces. Ten million messages take about 15 GB.
    """
    if file.exists():
        raise click.UsageError(f"{file} exists")
    began = time.monotonic()
    layout = Layout(messages, vaults, erasable)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        generate(file, layout, progress)
    click.echo(f"{layout.total:,} messages, {file.stat().st_size / 1e9:.2f} GB, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
