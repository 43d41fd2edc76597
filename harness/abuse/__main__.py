"""`python -m harness.abuse [NAME…]`: hostile callers, each against a server of its own, and how it fared."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.abuse.harnesses import HARNESSES
from harness.abuse.subject import Figure


def _figures(names: Sequence[str], *, short: bool, as_json: bool) -> dict[str, list[Figure]]:
    measured: dict[str, list[Figure]] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for name in names:
            task = progress.add_task(name)
            with tempfile.TemporaryDirectory() as directory:
                measured[name] = asyncio.run(HARNESSES[name].run(Path(directory), short=short))
            progress.remove_task(task)
            if not as_json:
                click.echo("\n".join([name, *(f"  {figure}" for figure in measured[name])]))
    return measured


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(HARNESSES)))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--short", is_flag=True, help="Seconds instead of minutes, with wider targets: what `make test` runs.")
def main(names: tuple[str, ...], as_json: bool, short: bool) -> None:
    """Attack a server in each of the ways NAMES, or in all of them; fails if it bears one of them badly."""
    measured = _figures(names or tuple(HARNESSES), short=short, as_json=as_json)
    if as_json:
        told = {
            name: [asdict(figure) | {"met": figure.met} for figure in figures] for name, figures in measured.items()
        }
        click.echo(json.dumps(told, ensure_ascii=False))
    sys.exit(not all(figure.met for figures in measured.values() for figure in figures))


if __name__ == "__main__":
    main()
