"""`python -m harness.torture [NAME…]`: what is promised of turns, tried until it breaks."""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from metamorphd.observe import configure_logging

from harness.abuse.subject import Figure
from harness.torture.crash import crash
from harness.torture.drain import drain
from harness.torture.mutants import MUTANTS
from harness.torture.race import race
from harness.torture.upstream import upstream

Harness = Callable[..., Coroutine[Any, Any, list[Figure]]]
HARNESSES: dict[str, Harness] = {"crash": crash, "race": race, "upstream": upstream, "drain": drain}
# How much each does: as it is claimed, and in the short form that the tests run.
ROUNDS = {"crash": (1000, 5), "race": (10_000, 600), "upstream": (1000, 120), "drain": (20, 1)}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(HARNESSES)))
@click.option("--rounds", type=click.IntRange(1), help="How much each does, instead of what is claimed.")
@click.option("--seed", type=int, help="Repeats what was drawn at random in a run that printed it.")
@click.option("--short", is_flag=True, help="As the tests do.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--mutant", default="", help="Break the server so; the figures must tell.")
def main(
    *, names: tuple[str, ...], rounds: int | None, seed: int | None, short: bool, as_json: bool, mutant: str
) -> None:
    """Torture turns, all ways or those named; fails if a figure is not met."""
    configure_logging("warning")
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    measured: dict[str, list[Figure]] = {}
    for name in names or [name for name in HARNESSES if not mutant or mutant in MUTANTS[name]]:
        with tempfile.TemporaryDirectory() as directory:
            arguments = {"rounds": rounds or ROUNDS[name][short], "seed": seed, "mutant": mutant}
            measured[name] = asyncio.run(HARNESSES[name](Path(directory), **arguments))
        if not as_json:
            click.echo("\n  ".join([name, *map(str, measured[name])]))
    if as_json:
        told = {
            name: [asdict(figure) | {"met": figure.met} for figure in figures] for name, figures in measured.items()
        }
        click.echo(json.dumps(told, ensure_ascii=False))
    sys.exit(not all(figure.met for figures in measured.values() for figure in figures))


if __name__ == "__main__":
    main()
