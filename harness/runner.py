"""Runs harnesses, each in a process of its own, so that a mutant affects one run only."""

import asyncio
import contextlib
import io
import itertools
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from metamorphd.observe import configure_logging

from harness.figure import Figure
from harness.harnesses import HARNESSES, Harness
from harness.mutants import MUTANTS
from harness.run import Run

# A short form takes less than a minute on an idle machine; one that takes this long hangs.
SHORT_SECONDS = 300.0


@dataclass(frozen=True)
class Job:
    """A harness to run with a form, against the server as it is or with a mutant. `again` is a second attempt."""

    harness: str
    form: Mapping[str, float]
    seed: int
    mutant: str = ""
    alone: bool = False
    limit_seconds: float | None = None
    again: bool = False

    def __str__(self) -> str:
        return f"{self.harness}, {self.mutant}" if self.mutant else self.harness


@dataclass(frozen=True)
class Result:
    """The figures of a job; `error` is its traceback, if it raised, and `notes` what it wrote about a mutant."""

    job: Job
    seconds: float
    figures: Sequence[Figure] = ()
    error: str = ""
    notes: str = ""

    @property
    def found(self) -> list[Figure]:
        """The unmet figures that show the mutant."""
        shown_by = MUTANTS[self.job.mutant].shown_by
        return [figure for figure in self.figures if not figure.met and figure.name in shown_by]

    @property
    def good(self) -> bool:
        """Whether every figure is met, or for a mutant, whether a figure shows it."""
        if self.error or not self.figures:
            return False
        return bool(self.found) if self.job.mutant else all(figure.met for figure in self.figures)

    def as_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        return asdict(self.job) | {"good": self.good, "seconds": self.seconds, "figures": figures, "error": self.error}


@dataclass
class Plan:
    """Makes jobs. `overrides` replace parts of every form; long forms run by themselves."""

    seed: int
    short: bool
    overrides: Mapping[str, float] = field(default_factory=dict)

    def sound(self, harness: Harness) -> Job:
        """The job of a harness against the server as it is."""
        if self.short:
            form, limit = {**harness.short, **self.overrides}, SHORT_SECONDS
            return Job(harness.name, form, self.seed, alone=harness.alone, limit_seconds=limit)
        return Job(harness.name, {**harness.long, **self.overrides}, self.seed, alone=True)

    def mutants(self, harness: Harness) -> list[Job]:
        """The jobs of a harness's short form against each of its mutants."""
        return [
            Job(
                harness.name,
                {**harness.short, **mutant.form, **self.overrides},
                self.seed,
                mutant.name,
                mutant.alone,
                SHORT_SECONDS,
            )
            for mutant in harness.mutants
        ]


def run(jobs: Sequence[Job], *, at_a_time: int, begins: Callable[[Job], None]) -> Iterator[Result]:
    """Yields each result as it comes, first those of jobs that run alone. Calls `begins` when a job begins.

    A mutant that is not found is tried once more: on a busy machine an attack may not get as far as the fault.
    """
    for count, some in ((1, [job for job in jobs if job.alone]), (at_a_time, [job for job in jobs if not job.alone])):
        waiting = iter(some)
        pending: set[Future[Result]] = set()
        with _pool(count) as pool:
            while True:
                for job in itertools.islice(waiting, count - len(pending)):
                    pending.add(pool.submit(perform, job))
                    begins(job)
                if not pending:
                    break
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for result in (each.result() for each in done):
                    if result.job.mutant and not (result.good or result.error or result.job.again):
                        pending.add(pool.submit(perform, replace(result.job, again=True)))
                    else:
                        yield result


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # grpc logs every closed connection and every header that it cannot parse, in every process.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Forks from a process that has imported everything and started no thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.harnesses", "anthropic"])
    # Without warnings: they are about the machine, and standard output has the figures.
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=configure_logging, initargs=("error",), max_tasks_per_child=1
    ) as pool:
        yield pool


def perform(job: Job) -> Result:
    """Runs a job in this process and returns its result."""
    began = time.monotonic()
    figures, error, notes = [], "", io.StringIO()
    # A sound server's faults are printed at once, a mutant's only if it is not found.
    with contextlib.redirect_stderr(notes) if job.mutant else contextlib.nullcontext():
        try:
            with tempfile.TemporaryDirectory() as directory:
                figures = asyncio.run(_measured(job, Path(directory)))
        except Exception:
            error = traceback.format_exc()
    return Result(job, time.monotonic() - began, figures, error, notes.getvalue())


async def _measured(job: Job, directory: Path) -> list[Figure]:
    async with asyncio.timeout(job.limit_seconds):
        return await HARNESSES[job.harness].run(Run(directory, job.seed, job.mutant), **job.form)
