"""What the server tells about itself: log lines and metrics."""

import logging
import sys
from dataclasses import dataclass

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


def configure_logging(level: str) -> None:
    """JSON lines on standard output, one an event, with `level`, `message` and `timestamp` (RFC 3339, UTC)."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _without_absent,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    # What libraries say, grpc and uvicorn among them, in the same form.
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)


def _without_absent(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {key: value for key, value in event.items() if value is not None}


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


@dataclass(frozen=True, slots=True)
class _Children:
    """A method's own metrics, looked up once: `labels()` twice costs 18 µs."""

    seconds: Histogram
    codes: dict[str, Counter]


class Metrics:
    """Counts and times calls. Labels are method and status code: never a vault, a user or an id."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "metamorph_call_duration_seconds", "Duration of calls", ["method"], buckets=BUCKETS, registry=self.registry
        )
        self._calls = Counter("metamorph_calls", "Calls by status code", ["method", "code"], registry=self.registry)
        self._children: dict[str, _Children] = {}

    def register(self, collector: Collector) -> None:
        """Adds metrics that are read when they are asked for."""
        self.registry.register(collector)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Counts one call."""
        children = self._children.get(method)
        if children is None:
            children = self._children[method] = _Children(self._seconds.labels(method), {})
        counter = children.codes.get(code)
        if counter is None:
            counter = children.codes[code] = self._calls.labels(method, code)
        children.seconds.observe(seconds)
        counter.inc()
