"""Log lines."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import BinaryIO, Self, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from metamorphd.log_output import STANDARD_OUTPUT, LogOutput, protect_standard_streams

FLUSH_SECONDS = 0.1
BAD_METADATA = "Invalid encoding on "
LEVELS = {"exception": "error", "warn": "warning"}

Fields = Callable[[], Mapping[str, object]]


def configure_logging(level: str, *watching: Processor) -> None:
    """Logs to standard output, one line of JSON per event, with `level`, `message` and `timestamp` (RFC 3339, UTC).

    Lines that cannot be written are dropped and counted. Each of `watching` sees every line before it is written, also
    those of libraries, of tasks whose exception nobody retrieves and of threads that fail, but not those of calls.
    """
    protect_standard_streams()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*watching, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_write_to(STANDARD_OUTPUT),
        cache_logger_on_first_use=True,
    )
    # Log records of libraries, such as grpc and uvicorn, get the same format.
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)
    threading.excepthook = _log_thread
    # OpenTelemetry logs what it finds wrong in a `tracestate`, so any caller could, too.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    # grpc logs a stack trace for each metadata value that is not UTF-8, so any caller could fill the log.
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not record.getMessage().startswith(BAD_METADATA))


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        structlog.get_logger(__name__).error("a thread failed", exc_info=failed.exc_value)


def _write_to(output: LogOutput) -> structlog.BytesLoggerFactory:
    # The factory only calls the file's `write` and `flush`.
    return structlog.BytesLoggerFactory(cast(BinaryIO, output))


def _render(_logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    return _line(LEVELS.get(method, method), event.pop("event"), event)


def _line(level: str, message: str, fields: Mapping[str, object]) -> bytes:
    """Returns a line without its line break. Fields that are None are omitted."""
    line = {"level": level, "message": message, "timestamp": datetime.now(UTC)}
    return _json(line | {key: value for key, value in fields.items() if value is not None})


def _json(line: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(line)
    except TypeError:
        # A value of another type, or a lone surrogate, which UTF-8 cannot represent.
        return orjson.dumps({key: ascii(value) for key, value in line.items()})


class CallLog:
    """Writes a log line for every call. An async context manager.

    Lines have the logger's format but bypass it, because it costs more than all guards together. Those of calls that
    end within `FLUSH_SECONDS` are made and written together: one after the other they take a third of the time that
    each would take amid the work of its call, and each write hands the GIL to another thread and back.
    """

    def __init__(self, *, level: str) -> None:
        self._enabled = logging.getLevelNamesMapping()[level.upper()] <= logging.INFO
        self._ended: list[tuple[float, Fields]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes the remaining lines."""
        self._flush()

    def write(self, fields: Fields) -> None:
        """Writes a line within `FLUSH_SECONDS`, with the fields that `fields` returns then."""
        if self._enabled:
            if not self._ended:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
            self._ended.append((time.time(), fields))

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        lines = [
            _json({"level": "info", "message": "call", "timestamp": datetime.fromtimestamp(moment, UTC), **fields()})
            for moment, fields in ended
        ]
        if lines:
            STANDARD_OUTPUT.write(b"\n".join([*lines, b""]))


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
