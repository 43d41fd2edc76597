"""Sends errors to Sentry. The only importer of its SDK. It uses the client, and nothing that patches others."""

import contextlib
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from sentry_sdk import Client
from sentry_sdk.transport import HttpTransport
from structlog.typing import EventDict, WrappedLogger

from metamorphd.reports.allowance import Allowance
from metamorphd.reports.content import content_of, place_of

# Events that wait until they are sent. Further ones are dropped.
QUEUE_EVENTS = 50
# For the last events, when the server ends.
CLOSE_SECONDS = 2.0
REPORTED = ("error", "exception", "critical", "fatal")
SAY_SECONDS = 60.0
DROPPED = "reports of errors were not accepted"

logger = structlog.get_logger(__name__)


class Reports:
    """Reports log lines that are errors, or that have an exception. Never raises, and never waits for the network.

    A step in the processing of log lines (structlog's processors). A line that is reported gets the event's id, as
    `report`.
    """

    def __init__(self, *, dsn: str, environment: str, release: str, now: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(now=now)
        # The SDK reads what is not given here from the environment, and looks for libraries that it can patch.
        self._client = Client(
            dsn=dsn,
            environment=environment,
            release=release,
            transport=_Transport,
            transport_queue_size=QUEUE_EVENTS,
            default_integrations=False,
            auto_enabling_integrations=False,
            enable_backpressure_handling=False,
            send_client_reports=False,
            auto_session_tracking=False,
            attach_stacktrace=False,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            server_name="",
            spotlight=False,
            debug=False,
        )

    def __call__(self, _logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        """Returns the line, with `report` if it is reported."""
        with contextlib.suppress(Exception):
            error = _error_of(line.get("exc_info"))
            if method in REPORTED or error is not None:
                self._report(method, line, error)
        return line

    def close(self) -> None:
        """Returns once all events are sent, or after `CLOSE_SECONDS`."""
        self._client.close(timeout=CLOSE_SECONDS)

    def _report(self, method: str, line: EventDict, error: BaseException | None) -> None:
        message = str(line["event"])
        left_out = self._allowance.admit((line.get("logger") or message, *place_of(error)))
        if left_out is None:
            return
        level = "error" if method == "exception" else method
        event: Any = content_of(error, level=level, message=message, fields=line)
        event |= {"event_id": uuid.uuid4().hex, "extra": {"left_out_before": left_out}}
        line["report"] = self._client.capture_event(event)


class _Transport(HttpTransport):
    """Says in the log that events are lost, because the SDK does not."""

    _said_at = float("-inf")

    def on_dropped_event(self, reason: str) -> None:
        # Sentry itself asked for fewer.
        if reason in ("status_429", "self_rate_limits"):
            return
        if time.monotonic() - self._said_at > SAY_SECONDS:
            self._said_at = time.monotonic()
            logger.warning(DROPPED, why=reason)


def _error_of(exc_info: object) -> BaseException | None:
    """Returns the exception of a log line, which may be given in each way that the standard library accepts."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None
