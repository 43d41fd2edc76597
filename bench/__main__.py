"""`python -m bench`: one run, one table."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import backups, budgets, sizes, suspensions, transfers, vaults, volumes
from bench.backups import Backups
from bench.budgets import Budgets
from bench.figure import Figure
from bench.parts import COMPARED, PARTS, STEPS, Bench
from bench.processes import services
from bench.sizes import DEFAULT, SMALL, Sizes
from bench.suspensions import Suspensions
from bench.transfers import Transfers
from bench.vaults import Vaults
from bench.volumes import Volumes
from tests.support.generated.files import FULL

WIDTH = 170


def _figures(parts: str, *, seconds: float, full: bool, console: Console) -> Iterator[Figure]:
    compared = [part for part in parts if part in COMPARED]
    with Progress(console=console, transient=True) as progress:
        apart = {"g": sizes.STEPS, "v": vaults.STEPS, "h": backups.STEPS, "x": transfers.STEPS}
        apart |= {"o": suspensions.STEPS, "u": budgets.STEPS, "s": volumes.STEPS}
        total = sum(STEPS[part] for part in compared) + sum(apart[part] for part in parts if part in apart)
        task = progress.add_task("starting", total=total)

        def step(kind: str) -> None:
            progress.update(task, description=kind, advance=1)

        if compared:
            with tempfile.TemporaryDirectory() as directory, services(Path(directory)) as running:
                yield from Bench(running, seconds=seconds, step=step).figures("".join(compared))
        large = FULL if full else DEFAULT
        if "g" in parts:
            yield from Sizes((SMALL, large), progress=progress, step=step).figures()
        if "v" in parts:
            yield from Vaults(progress=progress, step=step).figures()
        if "h" in parts:
            yield from Backups(large, progress=progress, step=step).figures()
        if "x" in parts:
            yield from Transfers(large, progress=progress, step=step).figures()
        if "o" in parts:
            yield from Suspensions(step=step).figures()
        if "u" in parts:
            yield from Budgets(step=step).figures()
        if "s" in parts:
            yield from Volumes(step=step).figures()


def _table(figures: list[Figure]) -> Table:
    table = Table(title=f"{os.cpu_count()} cores; load, server and Messages API are processes of their own")
    for column in ("measure", "ours", "reference", "ratio", "target", "met"):
        table.add_column(column)
    for figure in figures:
        met = "" if figure.met is None else "yes" if figure.met else "NO"
        table.add_row(figure.measure, figure.ours, figure.reference, figure.ratio, figure.target, met)
    return table


@click.command(epilog="\b\nParts:\n" + "\n".join(f"  {letter}  {about}" for letter, about in PARTS.items()))
@click.option(
    "--only",
    multiple=True,
    metavar="PART",
    type=click.Choice(list(PARTS)),
    help="Measure this part alone; may be repeated.",
)
@click.option("--seconds", default=1.0, show_default=True, help="Length of a round, of parts a to c.")
@click.option(
    "--full", is_flag=True, help="Measure parts g, h and x with ten million messages, which take minutes and 50 GB."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(only: tuple[str, ...], seconds: float, full: bool, as_json: bool) -> None:
    """Measure the server beside what it is compared with.

    Prints every figure that it has, also if it is interrupted. A figure that cannot be had says why.
    """
    notes = Console(stderr=True)
    figures: list[Figure] = []
    try:
        figures.extend(_figures("".join(only) or "".join(PARTS), seconds=seconds, full=full, console=notes))
    finally:
        if as_json:
            click.echo(json.dumps([asdict(figure) for figure in figures]))
        else:
            Console(width=None if notes.is_terminal else WIDTH).print(_table(figures))


if __name__ == "__main__":
    main()
