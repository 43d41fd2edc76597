"""What the server tells about itself: log lines and metrics."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
BAD_METADATA = "Invalid encoding on "
LEVELS = {"exception": "error", "warn": "warning"}


def configure_logging(level: str) -> None:
    """JSON lines on standard output, one an event, with `level`, `message` and `timestamp` (RFC 3339, UTC)."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    # What libraries say, grpc and uvicorn among them, in the same form.
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)
    # One with its trace for every text in a call's metadata that is not UTF-8: any caller could fill the log.
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not record.getMessage().startswith(BAD_METADATA))


def _render(_logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    return _line(LEVELS.get(method, method), event.pop("event"), event)


def _line(level: str, message: str, fields: Mapping[str, object]) -> bytes:
    """A line without its end; what is None is left out."""
    line = {"level": level, "message": message, "timestamp": datetime.now(UTC)}
    return orjson.dumps(line | {key: value for key, value in fields.items() if value is not None})


class CallLog:
    """Writes a line for every call, like the logger's but past its machinery, which costs more than all the guards.

    Lines of calls that end in one step of the event loop are written together: a write lets go of the interpreter.
    """

    def __init__(self, *, level: str) -> None:
        self._enabled = logging.getLevelNamesMapping()[level.upper()] <= logging.INFO
        self._lines: list[bytes] = []

    def write(self, fields: dict[str, object]) -> None:
        """One line, before the event loop waits again. All of `fields` are written."""
        if self._enabled:
            if not self._lines:
                asyncio.get_running_loop().call_soon(self._flush)
            line = {"level": "info", "message": "call", "timestamp": datetime.now(UTC)} | fields
            self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.buffer.flush()


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
