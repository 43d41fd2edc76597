"""An OTLP receiver over HTTP on loopback, which refuses what a real one refuses and keeps what it takes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, HistogramDataPoint, Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.requests import Request
from starlette.responses import Response

from tests.support.fakes.web import FakeWeb

PROTOBUF = "application/x-protobuf"
LARGEST_BODY = 20 * 1024 * 1024
Answer = Callable[[], Response]


@dataclass(frozen=True)
class Seen:
    """A span as it was received. `parent` is empty for the first of a trace."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    state: str
    attributes: dict[str, Any]
    failed: bool
    begin: int
    end: int


@dataclass(frozen=True)
class Point:
    """A point of a histogram as it was received."""

    attributes: dict[str, Any]
    count: int
    sum: float


class OtlpReceiver:
    """Takes traces and metrics, if requests have `headers`. `answer`, once set, answers instead."""

    def __init__(self, **headers: str) -> None:
        self.answer: Answer | None = None
        self.spans: list[Seen] = []
        self.points: dict[str, list[Point]] = {}
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.signals: list[str] = []
        self._headers = headers
        self._web = FakeWeb(self._answer)

    async def __aenter__(self) -> Self:
        await self._web.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._web.__aexit__()

    @property
    def url(self) -> str:
        """Returns the value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return self._web.url

    def named(self, name: str) -> list[Seen]:
        """Returns the spans of this name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Seen:
        """Returns the only span of this name."""
        (span,) = self.named(name)
        return span

    def under(self, parent: Seen) -> dict[str, Seen]:
        """Returns the spans directly within another, by their names."""
        return {span.name: span for span in self.spans if span.parent == parent.span_id}

    async def until(self, name: str, *, count: int = 1) -> list[Seen]:
        """Returns the spans of this name once there are so many."""
        async with asyncio.timeout(30):
            while len(self.named(name)) < count:  # noqa: ASYNC110, they come when they come
                await asyncio.sleep(0.05)
        return self.named(name)

    async def _answer(self, request: Request) -> Response:
        body, path = await request.body(), request.url.path
        refusals = {
            401: any(request.headers.get(name) != value for name, value in self._headers.items()),
            404: path not in ("/v1/traces", "/v1/metrics"),
            413: len(body) > LARGEST_BODY,
            415: request.headers.get("content-type") != PROTOBUF,
        }
        if status := next((status for status, refused in refusals.items() if refused), None):
            return Response(status_code=status)
        self.signals.append(path.rpartition("/")[2])
        if self.answer is not None:
            return self.answer()
        try:
            answered = self._traces(body) if path == "/v1/traces" else self._metrics(body)
        except (DecodeError, AssertionError) as exc:
            return Response(repr(exc), status_code=400)
        self.bodies.append(body)
        return Response(answered, media_type=PROTOBUF)

    def _traces(self, body: bytes) -> bytes:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self._keep(resource.resource)
            for scope in resource.scope_spans:
                assert scope.scope.name
                self.spans += map(_seen, scope.spans)
        return ExportTraceServiceResponse().SerializeToString()

    def _metrics(self, body: bytes) -> bytes:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self._keep(resource.resource)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    # They are cumulative: what came before is in it.
                    points = [_point(metric, point) for point in metric.histogram.data_points]
                    assert len({frozenset(point.attributes.items()) for point in points}) == len(points)
                    self.points[metric.name] = points
        return ExportMetricsServiceResponse().SerializeToString()

    def _keep(self, resource: Resource) -> None:
        self.resources.append(_attributes(resource.attributes))


def _seen(span: Span) -> Seen:
    assert len(span.trace_id) == 16
    assert any(span.trace_id)
    assert len(span.span_id) == 8
    assert any(span.span_id)
    assert len(span.parent_span_id) in (0, 8)
    assert span.name
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        _attributes(span.attributes),
        span.status.code == Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _point(metric: Metric, point: HistogramDataPoint) -> Point:
    assert metric.unit == "s"
    assert metric.description
    assert metric.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert sum(point.bucket_counts) == point.count
    assert list(point.explicit_bounds) == sorted(set(point.explicit_bounds))
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    assert not point.HasField("min")
    return Point(_attributes(point.attributes), point.count, point.sum)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    values = [(pair.key, _value(pair.value)) for pair in pairs]
    found = dict(values)
    assert len(found) == len(values)
    assert all(found)
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


def traced(receiver: OtlpReceiver, **overrides: Any) -> Mapping[str, Any]:
    """Returns the settings of a server that records every call for a receiver."""
    return {"otel_exporter_otlp_endpoint": receiver.url, "otel_traces_sampler_arg": 1.0} | overrides
