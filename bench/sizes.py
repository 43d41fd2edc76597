"""Part (g): what calls cost by how much is stored, on two generated files, measured in turns."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.progress import Progress

from bench.figure import Figure
from bench.operations import OPERATIONS, Call, Caller, Operation
from bench.processes import sized_service
from tests.support.generated.files import FILES, measurable
from tests.support.generated.generate import MESSAGES, VAULTS
from tests.support.generated.layout import ERASABLE, Layout
from tests.support.processes import Service

SMALL = Layout(10_000, 20)
DEFAULT = Layout(MESSAGES, VAULTS)

ROUNDS = ERASABLE
# Of an operation, both sides together: what is slow is measured less often.
OPERATION_SECONDS = 3.0
LEAST_CALLS = 3
STARTS = 3
MOST_RATIO = 1.5
MOST_START_SECONDS = 2.0
# A server sweeps a file that was not closed cleanly: of 15 GB for minutes.
SWEEP_SECONDS = 1800


@dataclass
class Side:
    """One size: its file, and what calls a server on it."""

    layout: Layout
    file: Path
    caller: Caller


class Sizes:
    """Measures each operation on both sizes, which take turns call by call; the ratio is the median of the rounds'."""

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        progress: Progress,
        step: Callable[[str], None],
        files: Path = FILES,
        operations: Sequence[Operation] = OPERATIONS,
        rounds: int = ROUNDS,
        starts: int = STARTS,
    ) -> None:
        self._layouts = layouts
        self._files = files
        self._operations = operations
        self._rounds = rounds
        self._starts = starts
        self._progress = progress
        self._step = step

    def figures(self) -> Iterator[Figure]:
        """Yields the figures. Files are generated if they are not there."""
        with ExitStack() as stack:
            files = [stack.enter_context(measurable(layout, self._files, self._progress)) for layout in self._layouts]
            yield self._about(files)
            with ExitStack() as running:
                sides = [
                    running.enter_context(_side(layout, file))
                    for layout, file in zip(self._layouts, files, strict=True)
                ]
                for side in sides:
                    self._await_sweep(side.file)
                for operation in self._operations:
                    self._step(operation.name)
                    yield self._attempted(operation, sides)
            for kind, stop in STOPS.items() if self._starts else ():
                self._step(f"start {kind}")
                yield self._start(f"(g) start, cold, {kind}, until SERVING", files, stop)

    def _about(self, files: Sequence[Path]) -> Figure:
        small, large = (
            f"{layout.total:,} messages, {file.stat().st_size / 1e9:.2f} GB"
            for layout, file in zip(self._layouts, files, strict=True)
        )
        vault = self._layouts[1].large
        return Figure(
            f"(g) ours: the large file; reference: the small one. Of these {vault.messages:,} in one vault",
            large,
            small,
        )

    def _await_sweep(self, file: Path) -> None:
        """Waits until the server has swept a file that the run before left by kill -9. Raises RuntimeError."""
        until = time.monotonic() + SWEEP_SECONDS
        marker = file.with_name(file.name + "-unswept")
        if marker.exists():
            self._step("waiting for the sweep of a file that was not closed cleanly")
        while marker.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"{file} is still not swept after {SWEEP_SECONDS} s")
            time.sleep(0.5)

    def _attempted(self, operation: Operation, sides: Sequence[Side]) -> Figure:
        name = f"(g) {operation.name}"
        try:
            rounds = measured(operation, self._rounds, [operation.ready(side.caller) for side in sides])
        except grpc.RpcError as error:
            details = error.details()
            return Figure(name, f"not measured: {error.code().name}: {details}")
        except IndexError:
            return Figure(name, "not measured: no session is left to be deleted; generate the file again")
        return compared(name, *rounds, most_ms=operation.most_ms)

    def _start(self, name: str, files: Sequence[Path], stop: Callable[[Service], None]) -> Figure:
        seconds: list[list[float]] = [[], []]
        try:
            for _ in range(self._starts):
                for file, into in zip(files, seconds, strict=True):
                    into.append(_start_seconds(file, stop))
        except RuntimeError as error:
            return Figure(name, f"not measured: {error}")
        small, large = map(median, seconds)
        met = large <= MOST_START_SECONDS and large / small <= MOST_RATIO
        target = f"≤ {MOST_RATIO}, ≤ {MOST_START_SECONDS:.0f} s"
        return Figure(name, f"{large:.2f} s", f"{small:.2f} s", f"{large / small:.2f}", target, met)


def measured(
    operation: Operation, count: int, calls: Sequence[Call], *, seconds: float = OPERATION_SECONDS
) -> list[list[list[float]]]:
    """Returns each side's rounds of seconds, small first: in `seconds` so many rounds, of which each has all sides."""
    measured: list[list[list[float]]] = [[] for _ in calls]
    number = 0
    for _ in range(count):
        until = time.monotonic() + seconds / count
        for rounds in measured:
            rounds.append([])
        for made in range(operation.most):
            if made >= LEAST_CALLS and time.monotonic() > until:
                break
            for call, rounds in zip(calls, measured, strict=True):
                rounds[-1].append(call(number))
            number += 1
    return measured


def compared(name: str, small: list[list[float]], large: list[list[float]], *, most_ms: float | None) -> Figure:
    ratios = [
        median(at(its, percent) / at(other, percent) for its, other in zip(large, small, strict=True))
        for percent in (50, 99)
    ]
    ours, other = (
        "p50 {:.1f}, p99 {:.1f} ms".format(*(median(at(some, percent) for some in side) * 1e3 for percent in (50, 99)))
        for side in (large, small)
    )
    met, target = max(ratios) <= MOST_RATIO, f"≤ {MOST_RATIO}"
    if most_ms is not None:
        met = met and median(at(some, 50) for some in large) * 1e3 <= most_ms
        target += f", ≤ {most_ms:.0f} ms"
    return Figure(name, ours, other, "p50 {:.2f}, p99 {:.2f}".format(*ratios), target, met)


def at(values: Sequence[float], percent: int) -> float:
    """Returns a percentile by the nearest rank: of few values the 99th is the largest."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@contextmanager
def _side(layout: Layout, file: Path) -> Iterator[Side]:
    with sized_service(file) as server, grpc.insecure_channel(server.target) as channel:
        yield Side(layout, file, Caller(layout, channel))
        # Orderly, so that the next start has nothing to recover.
        _stop(server)


def _start_seconds(file: Path, stop: Callable[[Service], None]) -> float:
    """Returns the seconds from the process's start until it is SERVING, with nothing of the file in memory."""
    with sized_service(file) as server:
        stop(server)
    for path in (file, file.with_name(file.name + "-wal")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    with sized_service(file) as server, grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while health.Check(health_pb2.HealthCheckRequest()).status != health_pb2.HealthCheckResponse.SERVING:
            time.sleep(0.005)
        took = time.monotonic() - began
        _stop(server)
        return took


def _stop(server: Service) -> None:
    server.process.terminate()
    server.process.wait()


def _kill(server: Service) -> None:
    server.process.kill()
    server.process.wait()


# By how the server before has ended.
STOPS = {"after a stop": _stop, "after kill -9": _kill}
STEPS = len(OPERATIONS) + len(STOPS)
