"""`python -m harness`: tries to break what is promised."""

import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from harness.harnesses import HARNESSES, ROOMS, Harness
from harness.mutants import MUTANTS
from harness.runner import Job, Plan, Result, run

# Short forms draw the same every time: a change must not fail for something that it did not touch.
SHORT_SEED = 1


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*HARNESSES, *ROOMS]), metavar="[NAMES]...")
@click.option("--short", is_flag=True, help="Seconds instead of minutes, with wider bounds.")
@click.option("--mutants", is_flag=True, help="Try their mutants too: servers with a fault each, which must be found.")
@click.option(
    "--mutant", "chosen", multiple=True, type=click.Choice(list(MUTANTS)), metavar="NAME", help="Try this mutant alone."
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=NUMBER", help="Change the form, as in rounds=100.")
@click.option("--seed", type=int, help="Draw the same at random as a run that printed it.  [default: 1 if --short]")
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count(), help="How many run at a time, where none measures time."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--list", "listing", is_flag=True, help="List the harnesses and their mutants.")
def main(
    *,
    names: tuple[str, ...],
    short: bool,
    mutants: bool,
    chosen: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    jobs: int,
    as_json: bool,
    listing: bool,
) -> None:
    """Try to break what is promised. NAMES are harnesses or rooms of harnesses; without any, all run.

    Prints every figure with its bound. Exits with 1 if one is not met, a mutant is not found, or a harness fails.
    """
    harnesses = [harness for harness in HARNESSES.values() if not names or {harness.name, harness.room} & {*names}]
    if listing:
        _list(harnesses)
        return
    if seed is None:
        seed = SHORT_SEED if short or chosen else random.SystemRandom().getrandbits(32)
    click.echo(f"seed {seed}", err=True)
    plan = Plan(seed, short, _numbers(overrides))
    planned: list[Job] = []
    if not chosen:
        planned += [plan.sound(harness) for harness in harnesses]
    if mutants or chosen:
        made = [job for harness in harnesses for job in plan.mutants(harness)]
        planned += [job for job in made if not chosen or job.mutant in chosen]
    if not planned:
        raise click.UsageError("that mutant is another harness's")
    began = time.monotonic()
    results = _run(planned, jobs, as_json=as_json)
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], ensure_ascii=False))
    else:
        click.echo(_summary(results, time.monotonic() - began))
    sys.exit(not all(result.good for result in results))


def _run(jobs: Sequence[Job], at_a_time: int, *, as_json: bool) -> list[Result]:
    results = []
    tasks: dict[str, TaskID] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def begins(job: Job) -> None:
            tasks[str(job)] = progress.add_task(str(job))

        for result in run(jobs, at_a_time=at_a_time, begins=begins):
            progress.remove_task(tasks.pop(str(result.job)))
            results.append(result)
            if not as_json:
                click.echo(_text(result))
    return results


def _text(result: Result) -> str:
    seconds = f"{result.job}, {result.seconds:.0f} s"
    if result.job.mutant and result.good:
        return "\n  ".join(
            [f"{seconds}: found{' at the second attempt' if result.job.again else ''}", *map(str, result.found)]
        )
    failed = result.error or (f"MUTANT NOT FOUND\n{result.notes}" if result.job.mutant else "")
    return "\n  ".join([seconds, *map(str, result.figures), *failed.splitlines()])


def _summary(results: Sequence[Result], seconds: float) -> str:
    sound, mutants = ([result for result in results if bool(result.job.mutant) == of] for of in (False, True))
    met, found = (sum(result.good for result in some) for some in (sound, mutants))
    verdict = f"{met} of {len(sound)} harnesses met their figures, {found} of {len(mutants)} mutants were found"
    bad = [f"  {result.job}{_why(result)}" for result in results if not result.good]
    return "\n".join([f"{verdict}, {seconds:.0f} s", *bad])


def _why(result: Result) -> str:
    """Returns what a log's last lines should say of a run that failed: it may be all that is kept of the log."""
    if result.error:
        return f": {result.error.splitlines()[-1]}"
    unmet = [] if result.job.mutant else [figure for figure in result.figures if not figure.met]
    return "".join(f"\n    {figure}" for figure in unmet)


def _numbers(overrides: Sequence[str]) -> dict[str, float]:
    numbers = {}
    for override in overrides:
        name, _, number = override.partition("=")
        try:
            numbers[name] = int(number) if number.isdigit() else float(number)
        except ValueError:
            raise click.BadParameter(f"{override!r} is not NAME=NUMBER", param_hint="--set") from None
    return numbers


def _list(harnesses: Sequence[Harness]) -> None:
    for harness in harnesses:
        click.echo(f"{harness.room}: {harness.name}: {harness.about}")
        click.echo(f"  long {_form(harness.long)}; short {_form(harness.short)}")
        for mutant in harness.mutants:
            click.echo(f"  mutant {mutant.name}, shown by: {', '.join(sorted(mutant.shown_by))}")


def _form(form: Mapping[str, float]) -> str:
    return " ".join(f"{name}={number}" for name, number in form.items()) or "as it is declared"


if __name__ == "__main__":
    main()
