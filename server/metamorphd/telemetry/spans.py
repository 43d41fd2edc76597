"""Spans that are recorded, by OpenTelemetry's SDK."""

from collections.abc import Callable, Mapping
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelSpanKind
from opentelemetry.trace import Status, StatusCode, Tracer, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from metamorphd.models.span import NOT_RECORDED, Attributes, Span, SpanKind
from metamorphd.telemetry import names
from metamorphd.telemetry.attributes import error_type
from metamorphd.telemetry.sampling import Parent

# A turn commits ten times a second, for minutes.
MOST_CHILDREN = 64
MOST_ATTRIBUTES = 32
LONGEST_ATTRIBUTE = 256
KINDS = {
    SpanKind.SERVER: OtelSpanKind.SERVER,
    SpanKind.CLIENT: OtelSpanKind.CLIENT,
    SpanKind.INTERNAL: OtelSpanKind.INTERNAL,
}


class Recorder:
    """Begins traces. Calls `ended` with every span that has ended, on the thread that ends it."""

    def __init__(self, *, resource: Resource, ended: Callable[[ReadableSpan], None]) -> None:
        provider = TracerProvider(
            # What is not recorded has no span of the SDK, which would cost a twentieth of a call or more.
            sampler=ALWAYS_ON,
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(
                max_span_attributes=MOST_ATTRIBUTES,
                max_span_attribute_length=LONGEST_ATTRIBUTE,
                max_events=0,
                max_links=0,
            ),
        )
        provider.add_span_processor(_Ended(ended))
        self._tracer = provider.get_tracer(names.SCOPE, schema_url=names.SCHEMA_URL)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, *, parent: Parent | None, attributes: Attributes) -> Span:
        """Begins the span of a call, which is a part of its caller's if there is one."""
        context = Context() if parent is None else self._propagator.extract(parent.headers, Context())
        span = self._tracer.start_span(name, context, OtelSpanKind.SERVER, attributes)
        return RecordedSpan(self._tracer, span)


class RecordedSpan(Span):
    """A span that is recorded. It has at most MOST_CHILDREN; how many more there would be, it says itself."""

    __slots__ = ("_children", "_span", "_tracer")

    recorded = True

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._children = 0

    @property
    def ids(self) -> Mapping[str, str]:
        context = self._span.get_span_context()
        return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}

    def child(self, name: str, /, *, kind: SpanKind, attributes: Attributes) -> Span:
        self._children += 1
        if self._children > MOST_CHILDREN:
            return NOT_RECORDED
        context = set_span_in_context(self._span, Context())
        return RecordedSpan(self._tracer, self._tracer.start_span(name, context, KINDS[kind], attributes))

    def describe(self, attributes: Attributes, /) -> None:
        if self._span.is_recording():
            self._span.set_attributes(attributes)

    def end(self, *, error: str = "") -> None:
        if not self._span.is_recording():
            return
        if error:
            self._span.set_attribute(names.ERROR_TYPE, error)
            self._span.set_status(Status(StatusCode.ERROR))
        if self._children > MOST_CHILDREN:
            self._span.set_attribute(names.OMITTED_SPANS, self._children - MOST_CHILDREN)
        self._span.end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error=error_type(error))


class _Ended(SpanProcessor):
    def __init__(self, ended: Callable[[ReadableSpan], None]) -> None:
        self._ended = ended

    def on_end(self, span: ReadableSpan) -> None:
        self._ended(span)
