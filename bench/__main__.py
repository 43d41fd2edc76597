"""`python -m bench`: one run, one table."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.processes import Services, load, services, slow_service

ROUNDS = 5
SLOW_STREAMS = (50, 100, 200, 250, 300, 400, 800)
SLOW_SECONDS = 10
LATEST_MS = 500


@dataclass(frozen=True)
class Figure:
    """One line of the table. `met` is None where there is no target."""

    measure: str
    ours: str
    reference: str
    ratio: str
    target: str
    met: bool | None


class Run:
    """Measures; each comparison alternates between both sides, and the median of its rounds counts."""

    def __init__(self, running: Services, *, seconds: float, step: Callable[[str], None]) -> None:
        self._running = running
        self._seconds = seconds
        self._step = step

    def figures(self) -> Iterator[Figure]:
        """Every figure, memory at start first and after the load last."""
        at_start = self._running.metamorph.resident_megabytes
        yield from self._calls()
        yield self._creates()
        yield self._words()
        yield self._first_delta()
        yield from self._slow()
        at_end = self._running.metamorph.resident_megabytes
        for when, megabytes in (("after start", at_start), ("after all of the above", at_end)):
            yield Figure(f"(d) resident memory, {when}", f"{megabytes:.0f} MB", "", "", "≤ 160 MB", megabytes <= 160)

    def _rounds(self, *sides: tuple[str, str], in_flight: int) -> list[list[dict[str, float]]]:
        measured: list[list[dict[str, float]]] = [[] for _ in sides]
        for _ in range(ROUNDS):
            for side, (kind, target) in zip(measured, sides, strict=True):
                self._step(kind)
                side.append(load(kind, target, in_flight=in_flight, seconds=self._seconds))
        return measured

    def _calls(self) -> Iterator[Figure]:
        running = self._running
        sides = (("get", running.metamorph.target), ("get", running.unguarded.target), ("get", running.bare.target))
        ours, unguarded, bare = self._rounds(*sides, in_flight=64)
        for name, other, target in (("no chain", unguarded, 0.8), ("bare echo", bare, 0.6)):
            ratio = _middle(ours, "per_second") / _middle(other, "per_second")
            yield Figure(
                f"(a) GetSession with the whole chain, against {name}",
                _rate(ours),
                _rate(other),
                f"{ratio:.2f}",
                f"≥ {target}",
                ratio >= target,
            )

    def _creates(self) -> Figure:
        (created,) = self._rounds(("create", self._running.metamorph.target), in_flight=64)
        rate = _middle(created, "per_second")
        return Figure("(b) durable CreateSession, 64 in flight", _rate(created), "", "", "≥ 3,000/s", rate >= 3000)

    def _words(self) -> Figure:
        sides = (("send", self._running.metamorph.target), ("sdk", self._running.messages_api.target))
        ours, sdk = self._rounds(*sides, in_flight=16)
        ratio = _middle(ours, "per_second") / _middle(sdk, "per_second")
        told, read = (f"{_middle(side, 'per_second'):,.0f} words/s" for side in (ours, sdk))
        name = "(c) SendMessage, 16 streams, against the SDK"
        return Figure(name, told, read, f"{ratio:.2f}", "≥ 0.8", ratio >= 0.8)

    def _slow(self) -> Iterator[Figure]:
        """How late the words of slow replies are: the curve, the most streams that are in time, and their memory."""
        held = megabytes = 0.0
        for streams in SLOW_STREAMS:
            self._step(f"{streams} slow streams")
            # Each number of streams has a server of its own: memory is never given back.
            with slow_service() as server:
                lag = load("slow", server.target, in_flight=streams, seconds=SLOW_SECONDS)
                if lag["p99_ms"] <= LATEST_MS:
                    held, megabytes = streams, server.resident_megabytes
            told = f"p50 {lag['p50_ms']:.0f}, p99 {lag['p99_ms']:.0f} ms"
            yield Figure(f"(e) {streams} streams of 20 words/s, lag", told, "", "", "", None)
        yield Figure(f"(e) streams at p99 ≤ {LATEST_MS} ms", f"{held:.0f}", "", "", "≥ 250", held >= 250)
        yield Figure("(e) resident memory with those", f"{megabytes:.0f} MB", "", "", "≤ 400 MB", megabytes <= 400)

    def _first_delta(self) -> Figure:
        sides = (("first", self._running.metamorph.target), ("first-sdk", self._running.messages_api.target))
        ours, sdk = self._rounds(*sides, in_flight=1)
        later = _middle(ours, "p50_ms") - _middle(sdk, "p50_ms")
        told, read = (f"{_middle(side, 'p50_ms'):.1f} ms" for side in (ours, sdk))
        return Figure("(c) first delta, 1 stream, p50", told, read, f"{later:+.1f} ms", "≤ 5 ms later", later <= 5)


def _middle(rounds: list[dict[str, float]], name: str) -> float:
    return median(measured[name] for measured in rounds)


def _rate(rounds: list[dict[str, float]]) -> str:
    p50, p99 = _middle(rounds, "p50_ms"), _middle(rounds, "p99_ms")
    return f"{_middle(rounds, 'per_second'):,.0f}/s (p50 {p50:.1f}, p99 {p99:.1f} ms)"


def _table(figures: list[Figure]) -> Table:
    table = Table(title=f"{os.cpu_count()} cores; load, server and Messages API are processes of their own")
    for column in ("measure", "ours", "reference", "ratio", "target", "met"):
        table.add_column(column)
    for figure in figures:
        met = "" if figure.met is None else "yes" if figure.met else "NO"
        table.add_row(figure.measure, figure.ours, figure.reference, figure.ratio, figure.target, met)
    return table


@click.command()
@click.option("--seconds", default=1.0, show_default=True, help="How long each round of a measurement is.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(seconds: float, as_json: bool) -> None:
    """Measure the server beside what it is compared with, in one run."""
    notes = Console(stderr=True)
    with tempfile.TemporaryDirectory() as directory, Progress(console=notes, transient=True) as progress:
        task = progress.add_task("starting", total=ROUNDS * 8 + len(SLOW_STREAMS))
        with services(Path(directory)) as running:
            run = Run(running, seconds=seconds, step=lambda kind: progress.update(task, description=kind, advance=1))
            figures = list(run.figures())
    if as_json:
        click.echo(json.dumps([asdict(figure) for figure in figures]))
    else:
        Console(width=None if notes.is_terminal else 160).print(_table(figures))


if __name__ == "__main__":
    main()
