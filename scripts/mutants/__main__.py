"""`make mutants`: changes conditions of the server at random. For each, a test must fail."""

import hashlib
import os
import queue
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.mutants.conditions import Change, conditions
from scripts.mutants.covering import PACKAGE, Coverage, Covering
from scripts.mutants.trial import Result, Tree

ROOT = Path(__file__).parents[2]
EXPLAINED = Path("scripts", "mutants", "explained.toml")
# They take long, and say nothing about a condition that others do not.
SLOW = ("tests/bench", "tests/deploy", "tests/docs/test_blocks.py", "tests/harness", "tests/scripts")


@click.command()
@click.option("--count", default=100, show_default=True, help="How many conditions to change.")
@click.option("--seed", type=int, help="Draw the same conditions as a run that printed it, also if others are new.")
@click.option("--only", multiple=True, metavar="PATH", help="Only these files or rooms, below server/metamorphd.")
@click.option("--without", multiple=True, metavar="PATH", help="Not these files or rooms.")
@click.option("--change", "texts", multiple=True, metavar="TEXT", help="Only changes whose printed line has this text.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count(), help="How many to try at a time.")
@click.option("--budget", default=120.0, show_default=True, help="Seconds of tests that one change may cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--tree", type=click.Path(path_type=Path, file_okay=False), default=ROOT, hidden=True)
def main(
    *,
    count: int,
    seed: int | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    texts: tuple[str, ...],
    jobs: int,
    budget: float,
    as_json: bool,
    tree: Path,
) -> None:
    """Change conditions of the server at random, one at a time, and run the tests that they are part of.

    Prints each change that no test finds. One that changes nothing is explained in explained.toml. Exits with 1 if one
    survives.
    """
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    changes = [change for path in sorted((tree / PACKAGE).rglob("*.py")) for change in conditions(tree / PACKAGE, path)]
    reasons = explained(tree / EXPLAINED, changes)
    wanted = [change for change in changes if (not only or _below(change, only)) and not _below(change, without)]
    wanted = [change for change in wanted if not texts or any(text in str(change) for text in texts)]
    wanted.sort(key=lambda change: hashlib.sha256(f"{seed} {change.key}".encode()).digest())
    began, results = time.monotonic(), []
    for result in _results(wanted[:count], reasons, tree=tree, jobs=jobs, budget=budget):
        results.append(result)
        if result.survived and not as_json:
            click.echo(f"SURVIVED {result.change}\n  {result.tests} of {result.covering} tests that run it were tried")
    if as_json:
        click.echo(orjson.dumps([result.as_json() for result in results]))
    else:
        click.echo(_summary(results, time.monotonic() - began))
    sys.exit(any(result.survived for result in results))


def explained(file: Path, changes: Sequence[Change]) -> Mapping[tuple[str, str, str], str]:
    """Returns the reasons why changes change nothing. Raises UsageError for one that is no longer possible."""
    entries = tomllib.loads(file.read_text())["explained"] if file.exists() else []
    reasons = {(entry["path"], entry["function"], entry["change"]): entry["reason"] for entry in entries}
    possible = {change.key for change in changes}
    for key in reasons:
        if key not in possible:
            raise click.UsageError(f"explained.toml explains what is no longer there: {', '.join(key)}")
    return reasons


def _below(change: Change, paths: Sequence[str]) -> bool:
    return any(change.path == path or change.path.startswith(f"{path.rstrip('/')}/") for path in paths)


def _results(
    changes: Sequence[Change], reasons: Mapping[tuple[str, str, str], str], *, tree: Path, jobs: int, budget: float
) -> Iterator[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as directory,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ThreadPoolExecutor(jobs) as threads,
    ):
        copies: queue.Queue[Tree] = queue.Queue()
        for number in range(jobs):
            copy = Tree(tree, Path(directory, str(number)))
            copy.make()
            copies.put(copy)
        coverage = _coverage(copies, tree / "data" / "mutants.json", progress, jobs)

        def result(change: Change) -> Result:
            if reason := reasons.get(change.key):
                return Result(change, explained=reason)
            began, covering = time.monotonic(), coverage.of(change)
            tests = _within(covering, budget)
            copy = copies.get()
            try:
                found = copy.finding(change, tests) if tests else ""
            finally:
                copies.put(copy)
            return Result(change, found, "", len(tests), len(covering), time.monotonic() - began)

        trying = [threads.submit(result, change) for change in changes]
        try:
            for done in progress.track(as_completed(trying), total=len(trying), description="changes"):
                yield done.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _coverage(copies: "queue.Queue[Tree]", file: Path, progress: Progress, jobs: int) -> Coverage:
    """Traces the tests in one of the copies."""
    copy = copies.get()
    coverage = Coverage(copy.root, file)
    files = [str(path.relative_to(copy.root)) for path in sorted((copy.root / "tests").rglob("test_*.py"))]
    files = [path for path in files if not path.startswith(SLOW)]
    task = progress.add_task("tracing the tests", total=100)
    for line in coverage.trace(copy.directory, jobs, files=files):
        if line.rstrip().endswith("%]"):
            progress.update(task, completed=int(line.rpartition("[")[2].strip(" %]\n")))
    progress.remove_task(task)
    copies.put(copy)
    return coverage


def _within(covering: Sequence[Covering], budget: float) -> list[Covering]:
    tests: list[Covering] = []
    seconds = 0.0
    for test in covering:
        seconds += test.seconds
        if seconds > budget and tests:
            break
        tests.append(test)
    return tests


def _summary(results: Sequence[Result], seconds: float) -> str:
    found, reasons = sum(bool(result.found) for result in results), sum(bool(result.explained) for result in results)
    return f"{found} of {len(results)} changes were found, {reasons} are explained, {seconds:.0f} s"


if __name__ == "__main__":
    main()
