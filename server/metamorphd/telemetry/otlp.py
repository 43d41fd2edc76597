"""Telemetry that goes to an OTLP receiver. Imported only if there is one: it takes time at the start, and memory."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Self

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client.registry import Collector

from metamorphd.metrics import Counter
from metamorphd.models.finding import Finding
from metamorphd.models.span import NOT_RECORDED, Span
from metamorphd.telemetry.attributes import of_method
from metamorphd.telemetry.interface import Measure
from metamorphd.telemetry.measured import measured
from metamorphd.telemetry.sampling import Sampling, parent_in
from metamorphd.telemetry.sending import METRICS, TRACES, Batch, Sender
from metamorphd.telemetry.spans import Recorder

# Spans that wait. More are dropped, so that a receiver that fails does not take the memory.
MOST_WAITING = 2048
BATCH = 256
SPAN_SECONDS = 5.0
METRIC_SECONDS = 60.0
# What is left when the server stops has this time, as nobody waits for it any more.
FLUSH_SECONDS = 2.0


class Otlp:
    """Records a `share` of the calls, and sends spans and, if `sends_metrics`, metrics. See `Telemetry`.

    It belongs to an event loop, on whose thread all spans end.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        resource: Mapping[str, str],
        share: float,
        sends_metrics: bool,
    ) -> None:
        self._dropped = Counter(
            "metamorph_telemetry_dropped", "Spans and data points that the OTLP receiver did not take", "signal"
        )
        for signal in (TRACES, METRICS):
            self._dropped.add(signal, amount=0)
        # With what OTEL_RESOURCE_ATTRIBUTES adds.
        self._resource = Resource.create(dict(resource))
        self._sender = Sender(endpoint=endpoint, headers=headers, dropped=self._dropped)
        self._sampling = Sampling(share)
        self._recorder = Recorder(resource=self._resource, ended=self._ended)
        self._sends_metrics = sends_metrics
        self._measures: Sequence[Measure] = ()
        self._since = time.time_ns()
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def collectors(self) -> Iterable[Collector]:
        return (self._dropped,)

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(self._send_spans())}
        if self._sends_metrics:
            self._tasks.add(asyncio.create_task(self._send_metrics()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._wake.set()
        await asyncio.wait(self._tasks, timeout=FLUSH_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._sender.__aexit__()

    def measure(self, measures: Sequence[Measure], /) -> None:
        self._measures = measures

    def call(self, path: str, headers: Sequence[tuple[str, str | bytes]], /) -> Span:
        parent = parent_in(headers) if headers else None
        if not self._sampling.records(parent):
            return NOT_RECORDED
        return self._recorder.begin(path[1:], parent=parent, attributes=of_method(path))

    def findings(self) -> list[Finding]:
        return self._sender.findings()

    def _ended(self, span: ReadableSpan) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._dropped.add(TRACES)
            return
        self._waiting.append(span)
        if len(self._waiting) >= BATCH:
            self._wake.set()

    async def _send_spans(self) -> None:
        """Begins with nothing, so that a wrong address is found at the start."""
        await self._sender.send(Batch(TRACES, 0, bytes, _rejected_spans))
        while not self._stopping.is_set():
            await _within(SPAN_SECONDS, self._wake)
            while self._waiting:
                spans = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._sender.send(Batch(TRACES, len(spans), partial(_encoded_spans, spans), _rejected_spans))
            if not self._stopping.is_set():
                self._wake.clear()

    async def _send_metrics(self) -> None:
        """Sends at once, likewise, then regularly, and at the end."""
        while True:
            ending = self._stopping.is_set()
            request = measured(self._measures, resource=self._resource, since=self._since, now=time.time_ns())
            encode = partial(_encoded_metrics, request.data)
            await self._sender.send(Batch(METRICS, request.count, encode, _rejected_points))
            if ending:
                return
            await _within(METRIC_SECONDS, self._stopping)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for an event, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _encoded_spans(spans: Sequence[ReadableSpan]) -> bytes:
    return encode_spans(spans).SerializeToString()


def _encoded_metrics(metrics: MetricsData) -> bytes:
    return encode_metrics(metrics).SerializeToString()


def _rejected_spans(body: bytes) -> int:
    return ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans


def _rejected_points(body: bytes) -> int:
    return ExportMetricsServiceResponse.FromString(body).partial_success.rejected_data_points
