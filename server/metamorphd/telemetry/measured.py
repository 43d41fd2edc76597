"""The server's histograms as OpenTelemetry's metrics: what Prometheus reads, under other names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from metamorphd.metrics import Distribution
from metamorphd.telemetry import names
from metamorphd.telemetry.interface import Measure

# Of a histogram that does not keep them. The encoder leaves out None.
UNKNOWN = cast(float, None)


@dataclass(frozen=True, slots=True)
class Measured:
    """Data of `count` data points."""

    data: export.MetricsData
    count: int


def measured(measures: Sequence[Measure], *, resource: Resource, since: int, now: int) -> Measured:
    """Returns what the measures have counted between two times, in nanoseconds since the epoch."""
    metrics = [
        export.Metric(
            name=measure.name,
            description=measure.about,
            unit="s",
            data=export.Histogram(data_points=points, aggregation_temporality=export.AggregationTemporality.CUMULATIVE),
        )
        for measure in measures
        if (points := list(_points(measure, since=since, now=now)))
    ]
    scope = export.ScopeMetrics(
        scope=InstrumentationScope(names.SCOPE, schema_url=names.SCHEMA_URL),
        metrics=metrics,
        schema_url=names.SCHEMA_URL,
    )
    whole = export.ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url=resource.schema_url)
    return Measured(export.MetricsData([whole]), sum(len(metric.data.data_points) for metric in metrics))


def _points(measure: Measure, *, since: int, now: int) -> Iterator[export.HistogramDataPoint]:
    for attributes, distribution in _merged(measure).items():
        if count := sum(distribution.counts):
            yield export.HistogramDataPoint(
                attributes=dict(attributes),
                start_time_unix_nano=since,
                time_unix_nano=now,
                count=count,
                sum=distribution.sum,
                bucket_counts=distribution.counts,
                explicit_bounds=measure.histogram.bounds,
                min=UNKNOWN,
                max=UNKNOWN,
            )


def _merged(measure: Measure) -> dict[frozenset[tuple[str, str]], Distribution]:
    """Returns one distribution for each set of attributes, since more values than labels may have the same."""
    merged: dict[frozenset[tuple[str, str]], Distribution] = {}
    for values, distribution in measure.histogram.distributions():
        attributes = measure.attributes(values)
        if attributes is not None:
            whole = merged.setdefault(frozenset(attributes.items()), Distribution(measure.histogram.bounds))
            whole.join(distribution)
    return merged
