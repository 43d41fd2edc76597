"""The parts of the benchmark, and the figures of each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import psutil

from bench.figure import Figure
from bench.processes import (
    LoadFailed,
    Round,
    Services,
    last_line,
    loading,
    logging_services,
    observing_services,
    slow_service,
    watched_service,
)
from tests.support.processes import Service

# By its letter, each part; also the order in which they are measured.
PARTS = {
    "a": "GetSession, against no chain and against a bare echo",
    "b": "CreateSession, durable, and against a bare echo",
    "c": "words and the first delta of SendMessage, against the SDK",
    "e": "how late the words of slow replies are",
    "f": "server CPU for a delta of a slow reply, against a bare echo's call",
    "i": "GetSession with metrics, logs and traces, against none of them",
    "w": "CreateSession with and without the vault's log, and the memory of those who watch it",
    "d": "resident memory at start, and after the other parts",
    "g": "calls on a large file, against the same on a small one",
    "v": "secrets, memories and the logs of vaults with a million of each, against ten thousand",
    "h": "writers beside a backup of a large file, and its restore",
    "o": "another vault beside the suspension of one with many turns and watchers",
    "u": "turns with labels and budgets, and usage by user and label, of which a vault has a million rows",
    "x": "the export and the import of a large vault, and their memory",
    "s": "bytes of a session, a message and so on, and the volume that users need",
}
# Those that compare servers, beside each other and from the beginning.
COMPARED = "abcefiwd"
ROUNDS = 7
SLOW_STREAMS = (100, 200, 250, 400, 800)
SLOW_SECONDS = 10.0
LATEST_MS = 500
# Three only: each takes ten seconds until all streams are open.
CPU_ROUNDS = 3
CPU_STREAMS = 200
CPU_SECONDS = 5.0
# Many short ones: what is measured is a twentieth, and a machine is slower by as much for seconds at a time.
OBSERVED_ROUNDS = 40
OBSERVED_SECONDS = 0.5
LEAST_OBSERVED = 0.95
LEAST_LOGGED = 0.9
WATCHERS = 1_000
STEPS = {
    "a": ROUNDS * 4,
    "b": ROUNDS * 2,
    "c": ROUNDS * 4,
    "e": len(SLOW_STREAMS),
    "f": CPU_ROUNDS * 2,
    "i": OBSERVED_ROUNDS * 2,
    "w": ROUNDS * 2 + 2,
    "d": 0,
}

# A load that failed, a server that did not start, and one that has ended.
FAILURES = (LoadFailed, RuntimeError, psutil.Error)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a server, and how it is loaded."""

    kind: str
    server: Service
    in_flight: int
    seconds: float


class Bench:
    """Measures parts. The sides of a comparison take turns, and a ratio is the median of those of the rounds, so that
    a machine that is slow for a while is slow for all sides."""

    def __init__(self, running: Services, *, seconds: float, step: Callable[[str], None]) -> None:
        self._running = running
        self._seconds = seconds
        self._step = step
        self._at_start = running.metamorph.resident_megabytes

    def figures(self, parts: str) -> Iterator[Figure]:
        """Yields the figures of `parts`, letters of PARTS. One that cannot be had says why, in one line."""
        measure = {"a": self._gets, "b": self._creates, "c": self._replies, "e": self._slow}
        measure |= {"f": self._cpu, "i": self._observing, "w": self._log}
        for letter, about in PARTS.items():
            if letter in parts and letter in COMPARED:
                yield from _attempted(f"({letter}) {about}", measure.get(letter, self._memory)())

    def _gets(self) -> Iterator[Figure]:
        running = self._running
        servers = (running.metamorph, running.unguarded, running.unchained, running.bare)
        ours, unguarded, unchained, bare = self._rounds(*(Side("get", server, 64, self._seconds) for server in servers))
        for against, other, least in (
            ("no chain, in grpc.aio's server", unguarded, 0.85),
            ("no chain, in our server", unchained, None),
            ("bare echo, in grpc.aio's server", bare, 0.65),
        ):
            name = f"(a) GetSession with the whole chain, against {against}"
            ratio = _ratio(ours, other, "per_second")
            target, met = (None, None) if least is None else (f"≥ {least}", ratio >= least)
            yield Figure(name, _rate(ours), _rate(other), f"{ratio:.2f}", target or "", met)
            ours_cpu, its_cpu = (f"{_middle(side, 'cpu_us'):.0f} µs" for side in (ours, other))
            ratio = _ratio(ours, other, "cpu_us")
            yield Figure(f"(a) server CPU of the same, against {against}", ours_cpu, its_cpu, f"{ratio:.2f}")

    def _creates(self) -> Iterator[Figure]:
        running = self._running
        ours, bare = self._rounds(
            *(Side("create", server, 64, self._seconds) for server in (running.metamorph, running.bare))
        )
        rate = _middle(ours, "per_second")
        yield Figure("(b) durable CreateSession, 64 in flight", _rate(ours), target="≥ 3,000/s", met=rate >= 3000)
        ratio = f"{_ratio(ours, bare, 'per_second'):.2f}"
        yield Figure("(b) durable CreateSession, against bare echo", _rate(ours), _rate(bare), ratio)

    def _replies(self) -> Iterator[Figure]:
        running, seconds = self._running, self._seconds
        ours, sdk = self._rounds(
            Side("send", running.metamorph, 16, seconds), Side("sdk", running.messages_api, 16, seconds)
        )
        ratio = _ratio(ours, sdk, "per_second")
        words, read = (f"{_middle(side, 'per_second'):,.0f} words/s" for side in (ours, sdk))
        name = "(c) SendMessage, 16 streams, against the SDK"
        yield Figure(name, words, read, f"{ratio:.2f}", "≥ 1.2", ratio >= 1.2)
        ours, sdk = self._rounds(
            Side("first", running.metamorph, 1, seconds), Side("first-sdk", running.messages_api, 1, seconds)
        )
        later = median(our["p50_ms"] - its["p50_ms"] for our, its in zip(ours, sdk, strict=True))
        first, read = (f"{_middle(side, 'p50_ms'):.1f} ms" for side in (ours, sdk))
        yield Figure("(c) first delta, 1 stream, p50", first, read, f"{later:+.1f} ms", "≤ 5 ms later", later <= 5)

    def _slow(self) -> Iterator[Figure]:
        """How late words are by the number of streams, the most streams that are in time, and their memory."""
        most, megabytes = 0, 0.0
        for streams in SLOW_STREAMS:
            self._step(f"{streams} slow streams")
            name = f"(e) {streams} streams of 20 words/s, lag"
            try:
                # Each number of streams has a server of its own: memory is never given back.
                with slow_service() as server, loading("slow", server, in_flight=streams, seconds=SLOW_SECONDS) as load:
                    lag = load.round()
                    resident = server.resident_megabytes
            except FAILURES as failure:
                yield _not_measured(name, failure)
                continue
            yield Figure(name, f"p50 {lag['p50_ms']:.0f}, p99 {lag['p99_ms']:.0f} ms")
            if lag["p99_ms"] <= LATEST_MS:
                most, megabytes = streams, resident
        yield Figure(f"(e) streams at p99 ≤ {LATEST_MS} ms", f"{most}", target="≥ 250", met=most >= 250)
        if most:
            memory = f"{megabytes:.0f} MB"
            yield Figure("(e) resident memory with those", memory, target="≤ 400 MB", met=megabytes <= 400)

    def _cpu(self) -> Iterator[Figure]:
        """Both sides' CPU time, which depends on the machine less than a rate does, and their ratio hardly."""
        with slow_service() as server:
            slow, bare = self._rounds(
                Side("slow", server, CPU_STREAMS, CPU_SECONDS),
                Side("get", self._running.bare, 64, self._seconds),
                rounds=CPU_ROUNDS,
            )
        echo = f"{_middle(bare, 'cpu_us'):.0f} µs a call"
        streams = f"{CPU_STREAMS} streams of 20 words/s, {_middle(slow, 'words_a_delta'):.1f} a delta"
        for what, target in (("delta", 0.8), ("word", None)):
            name = f"cpu_us_a_{what}"
            ratio = median(ours[name] / echoed["cpu_us"] for ours, echoed in zip(slow, bare, strict=True))
            yield Figure(
                f"(f) server CPU of a sent {what}, against bare echo; {streams}",
                f"{_middle(slow, name):.0f} µs",
                echo,
                f"{ratio:.2f}",
                "" if target is None else f"≤ {target}",
                None if target is None else ratio <= target,
            )

    def _observing(self) -> Iterator[Figure]:
        """Measures the cost of counting, logging and tracing, as a share of their rate and of the server's CPU time."""
        with observing_services() as servers:
            ours, none = self._rounds(
                *(Side("get", server, 64, OBSERVED_SECONDS) for server in servers), rounds=OBSERVED_ROUNDS
            )
        name = "(i) GetSession with metrics, logs and 1 % traces, against none of them"
        ratio = _ratio(ours, none, "per_second")
        yield Figure(name, _rate(ours), _rate(none), f"{ratio:.2f}", f"≥ {LEAST_OBSERVED}", ratio >= LEAST_OBSERVED)
        ours_cpu, its_cpu = (f"{_middle(side, 'cpu_us'):.0f} µs" for side in (ours, none))
        yield Figure("(i) server CPU of the same", ours_cpu, its_cpu, f"{_ratio(ours, none, 'cpu_us'):.2f}")

    def _log(self) -> Iterator[Figure]:
        """Measures the cost of appending to vaults' logs, and the memory of watchers, each of a vault of its own."""
        with logging_services() as servers:
            logged, unlogged = self._rounds(*(Side("create", server, 64, self._seconds) for server in servers))
        ratio = _ratio(logged, unlogged, "per_second")
        name = "(w) CreateSession with the vault's log, against none"
        yield Figure(name, _rate(logged), _rate(unlogged), f"{ratio:.2f}", f"≥ {LEAST_LOGGED}", ratio >= LEAST_LOGGED)
        ours_cpu, its_cpu = (f"{_middle(side, 'cpu_us'):.0f} µs" for side in (logged, unlogged))
        yield Figure("(w) server CPU of the same", ours_cpu, its_cpu, f"{_ratio(logged, unlogged, 'cpu_us'):.2f}")
        with watched_service(WATCHERS) as (server, watchers):
            before = server.resident_megabytes
            for when in ("that wait", "that were each sent a change"):
                self._step(f"{WATCHERS:,} watchers {when}")
                watchers.step()
                more = server.resident_megabytes - before
                name = f"(w) resident memory of {WATCHERS:,} watchers {when}"
                yield Figure(name, f"{more:.0f} MB", target="≤ 60 MB", met=more <= 60)

    def _memory(self) -> Iterator[Figure]:
        at_end = self._running.metamorph.resident_megabytes
        for when, megabytes in (("after start", self._at_start), ("after all of the above", at_end)):
            name = f"(d) resident memory, {when}"
            yield Figure(name, f"{megabytes:.0f} MB", target="≤ 160 MB", met=megabytes <= 160)

    def _rounds(self, *sides: Side, rounds: int = ROUNDS) -> list[list[Round]]:
        """Returns the rounds of each side, which take turns. Raises LoadFailed."""
        with ExitStack() as stack:
            loads = [
                stack.enter_context(loading(side.kind, side.server, in_flight=side.in_flight, seconds=side.seconds))
                for side in sides
            ]
            measured: list[list[Round]] = [[] for _ in sides]
            for _ in range(rounds):
                for side, load, into in zip(sides, loads, measured, strict=True):
                    self._step(side.kind)
                    into.append(load.round())
            return measured


def _attempted(name: str, figures: Iterator[Figure]) -> Iterator[Figure]:
    try:
        yield from figures
    except FAILURES as failure:
        yield _not_measured(name, failure)


def _not_measured(name: str, failure: Exception) -> Figure:
    return Figure(name, f"not measured: {last_line(str(failure))}")


def _middle(rounds: list[Round], name: str) -> float:
    return median(measured[name] for measured in rounds)


def _ratio(ours: list[Round], other: list[Round], name: str) -> float:
    return median(our[name] / its[name] for our, its in zip(ours, other, strict=True))


def _rate(rounds: list[Round]) -> str:
    p50, p99 = _middle(rounds, "p50_ms"), _middle(rounds, "p99_ms")
    return f"{_middle(rounds, 'per_second'):,.0f}/s (p50 {p50:.1f}, p99 {p99:.1f} ms)"
