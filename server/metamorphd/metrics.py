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


class Histogram(Collector):
    """Distributions, by the values of labels. Only one thread may add to each."""

    def __init__(self, name: str, about: str, *labels: str, bounds: Sequence[float] = SECONDS) -> None:
        self._name = name
        self._about = about
        self._labels = labels
        self._bounds = bounds
        self._distributions: dict[tuple[str, ...], Distribution] = {}

    def of(self, *values: str) -> Distribution:
        """Returns the distribution of these label values, which may be kept."""
        found = self._distributions.get(values)
        if found is None:
            found = self._distributions[values] = Distribution(self._bounds)
        return found

    def collect(self) -> Iterator[Metric]:
        """Yields those that have counted anything."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, distribution in list(self._distributions.items()):
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
    """Counts and times the calls of one method."""

    __slots__ = ("codes", "durations")

    def __init__(self, durations: Distribution) -> None:
        self.codes: dict[str, int] = {}
        self.durations = durations

    def ended(self, code: str, seconds: float) -> None:
        """Counts one call."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.durations.add(seconds)


class Metrics(Collector):
    """Metrics of calls, and the registry of all others."""

    def __init__(self) -> None:
        self._methods: dict[str, CallMetrics] = {}
        self._durations = Histogram("metamorph_call_duration_seconds", "Duration of calls", "method")
        self.refusals = Counter("metamorph_refusals", "Calls that were refused, by reason", "reason")
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.register(self, self._durations, self.refusals)

    def register(self, *collectors: Collector) -> None:
        """Adds collectors to those that Prometheus reads."""
        for collector in collectors:
            self.registry.register(collector)

    def of_method(self, method: str) -> CallMetrics:
        """Returns the metrics of a method, given its path."""
        return self._methods.setdefault(method, CallMetrics(self._durations.of(method)))

    def collect(self) -> Iterator[Metric]:
        """Yields the calls by method and code, and the log lines that were dropped."""
        calls = CounterMetricFamily("metamorph_calls", "Calls by status code", labels=["method", "code"])
        for method, metrics in self._methods.items():
            for code, count in metrics.codes.items():
                calls.add_metric([method, code], count)
        yield calls
        dropped = CounterMetricFamily("metamorph_log_lines_dropped", "Log lines that could not be written")
        dropped.add_metric([], STANDARD_OUTPUT.dropped)
        yield dropped
