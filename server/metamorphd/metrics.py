"""Metrics: counters and histograms of plain numbers, and the registry that Prometheus reads.

prometheus-client's own metrics take a lock each, at three times the cost of all guards, and add a `_created` series to
each other one. Every label has few values: a method, a code, a reason, a model. None is an id or comes from a caller.
"""

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from metamorphd.log_output import STANDARD_OUTPUT

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)

# By name, what each figure is and how it is read.
Figures = Mapping[str, tuple[str, Callable[[], float]]]


class Counter(Collector):
    """Counts, by the values of labels. Only one thread may add. Its samples have the suffix `_total`."""

    def __init__(self, name: str, about: str, *labels: str) -> None:
        self._name = name
        self._about = about
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, amount: float = 1) -> None:
        """Adds to the count of these label values. An amount of 0 makes it begin at 0, so that its rate is known."""
        self._counts[values] = self._counts.get(values, 0) + amount

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        yield family


class Distribution:
    """Counts values by the bucket that they are in."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        # The last bucket has no upper bound.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def join(self, other: "Distribution") -> None:
        """Adds what another one with the same bounds has counted."""
        self.counts = [sum(both) for both in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Histogram(Collector):
    """Distributions, by the values of labels. Only one thread may add to each.

    There may be more values than labels: Prometheus sees what they have in common, since each would be sixteen series.
    """

    def __init__(self, name: str, about: str, *labels: str, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self._name = name
        self._about = about
        self._labels = labels
        self._distributions: dict[tuple[str, ...], Distribution] = {}

    def of(self, *values: str) -> Distribution:
        """Returns the distribution of these values, which may be kept."""
        found = self._distributions.get(values)
        if found is None:
            found = self._distributions[values] = Distribution(self.bounds)
        return found

    def distributions(self) -> Iterator[tuple[tuple[str, ...], Distribution]]:
        """Yields each distribution with its values."""
        yield from list(self._distributions.items())

    def collect(self) -> Iterator[Metric]:
        """Yields those that have counted anything."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        whole: dict[tuple[str, ...], Distribution] = {}
        for values, distribution in self.distributions():
            whole.setdefault(values[: len(self._labels)], Distribution(self.bounds)).join(distribution)
        for values, distribution in whole.items():
            counts = list(accumulate(distribution.counts))
            if counts[-1]:
                family.add_metric(values, list(zip(bounds, counts, strict=True)), distribution.sum)
        yield family


class Gauges(Collector):
    """Figures that are read when they are asked for. One that cannot be read is left out, and hides no other."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for name, (about, read) in self._figures.items():
            family = GaugeMetricFamily(name, about)
            with contextlib.suppress(Exception):
                family.add_metric([], read())
            yield family


class Info(Collector):
    """A gauge that is always 1, whose labels say something."""

    def __init__(self, name: str, about: str, **labels: str) -> None:
        self._name = name
        self._about = about
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._about, labels=tuple(self._labels))
        family.add_metric(tuple(self._labels.values()), 1)
        yield family


class CallMetrics:
    """Times the calls of one method, by code."""

    __slots__ = ("_durations", "_method", "_of_code")

    def __init__(self, method: str, durations: Histogram) -> None:
        self._method = method
        self._durations = durations
        self._of_code: dict[str, Distribution] = {}

    def ended(self, code: str, seconds: float) -> None:
        """Counts one call."""
        known = self._of_code.get(code)
        if known is None:
            known = self._of_code[code] = self._durations.of(self._method, code)
        known.add(seconds)


class Metrics(Collector):
    """Metrics of calls, and the registry of all others."""

    def __init__(self) -> None:
        self.durations = Histogram("metamorph_call_duration_seconds", "Duration of calls", "method")
        self.refusals = Counter("metamorph_refusals", "Calls that were refused, by reason", "reason")
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.register(self, self.durations, self.refusals)

    def register(self, *collectors: Collector) -> None:
        """Adds collectors to those that Prometheus reads."""
        for collector in collectors:
            self.registry.register(collector)

    def of_method(self, method: str) -> CallMetrics:
        """Returns the metrics of a method, given its path."""
        return CallMetrics(method, self.durations)

    def collect(self) -> Iterator[Metric]:
        """Yields the calls by method and code, and the log lines that were dropped."""
        calls = CounterMetricFamily("metamorph_calls", "Calls by status code", labels=["method", "code"])
        for values, distribution in self.durations.distributions():
            calls.add_metric(values, sum(distribution.counts))
        yield calls
        dropped = CounterMetricFamily("metamorph_log_lines_dropped", "Log lines that could not be written")
        dropped.add_metric([], STANDARD_OUTPUT.dropped)
        yield dropped
