"""Translates failures of calls to the provider to our errors, without the provider's own text."""

import re
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from metamorphd.errors import (
    DomainError,
    UpstreamFailed,
    UpstreamInterrupted,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamSpendLimit,
    UpstreamStalled,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from metamorphd.llm.blame import blamed
from metamorphd.llm.request import Request

_THINKING = re.compile(r"thinking|signature", re.IGNORECASE)
_ERROR_TYPE = re.compile(r"[a-z_]{1,64}")
SPEND_CODES = {"enforced_spend_limit_reached", "contract_spend_limit_reached"}
_SPENT = re.compile(r"You have reached your specified (workspace )?API usage limits|Your credit balance is too low")


class Failures:
    """Translates the exceptions of the SDK, which is given, and of its HTTP client."""

    def __init__(self, *, anthropic: Any, httpx2: Any) -> None:
        self._anthropic = anthropic
        self._httpx2 = httpx2
        # The built-in ones: a stream that is not JSON, or whose events are inconsistent, have unexpected types
        # or are nested too deeply.
        built_in = (ValueError, KeyError, AttributeError, TypeError, RecursionError)
        self.all = (anthropic.APIError, httpx2.HTTPError, *built_in)

    async def end_at_silence(self, request: Any, call_next: Any) -> Any:
        """Raises UpstreamStalled for an attempt that times out in silence. A middleware of the SDK."""
        try:
            return await call_next(request)
        except self._anthropic.APITimeoutError as exc:
            if isinstance(exc.__cause__, (self._httpx2.ReadTimeout, self._httpx2.WriteTimeout)):
                # Not from `exc`: the SDK retries errors that have one of its own among their causes.
                raise UpstreamStalled from exc.__cause__
            raise

    def rejects_thinking(self, exc: Exception) -> bool:
        """Returns whether a request was rejected because of thinking in it, which only the error's text says."""
        if not isinstance(exc, self._anthropic.BadRequestError):
            return False
        return isinstance(exc.api_message, str) and _THINKING.search(exc.api_message) is not None

    def rejection(self, exc: Exception, request: Request) -> DomainError:
        """Returns our error for a request that was not answered, with what it blames, as `blamed` has it."""
        error = self.translate(exc, answered=False)
        if not isinstance(error, UpstreamRejected):
            return error
        return _rejected(request, rejected=error.metadata["type"], text=getattr(exc, "api_message", None))

    def translate(self, exc: Exception, *, answered: bool) -> DomainError:
        """Returns our error for an exception. `answered`: the reply had begun, so the request cannot be the cause."""
        if isinstance(exc, (self._anthropic.APITimeoutError, self._httpx2.TimeoutException)):
            never_connected = isinstance(exc.__cause__, (self._httpx2.ConnectTimeout, self._httpx2.PoolTimeout))
            return UpstreamUnavailable() if never_connected else UpstreamStalled()
        if isinstance(exc, self._anthropic.APIStatusError) and not answered:
            redirected = HTTPStatus.MULTIPLE_CHOICES <= exc.status_code < HTTPStatus.BAD_REQUEST
            return UpstreamRedirected() if redirected else _before_reply(exc)
        return UpstreamInterrupted() if answered else UpstreamUnavailable()


class RejectedInReply(Exception):
    """An error event that rejects the request, which gateways send in place of a status."""

    def __init__(self, rejected: str, text: Any) -> None:
        self._rejected = rejected
        self._text = text

    def error(self, request: Request | None) -> DomainError:
        """Returns our error, with what it blames. None: the reply had begun, so the request cannot be the cause."""
        if request is None:
            return UpstreamInterrupted()
        return _rejected(request, rejected=self._rejected, text=self._text)


def _rejected(request: Request, *, rejected: str, text: Any) -> DomainError:
    error = UpstreamRejected(type=rejected)
    error.metadata |= blamed(request, rejected=rejected, message=text if isinstance(text, str) else "")
    return error


def within_reply(event: Any) -> DomainError | RejectedInReply:
    """Returns the error for an error event. The response's status is 200, so only the type of the error is known."""
    match event:
        case {"error": {"type": str(kind), **error}} | {"type": str(kind), **error}:
            text = error.get("message")
        case _:
            kind, text = "", None
    match kind:
        case "invalid_request_error" | "request_too_large":
            return RejectedInReply(kind, text)
        case "billing_error":
            return UpstreamSpendLimit()
        case "overloaded_error":
            return UpstreamOverloaded()
        case "rate_limit_error":
            return UpstreamRateLimited()
        case "" | "error":
            return UpstreamFailed()
    return UpstreamInterrupted()


def _before_reply(exc: Any) -> DomainError:
    if _out_of_credit(exc):
        return UpstreamSpendLimit()
    match exc.status_code:
        case 401 | 403:
            return UpstreamUnauthenticated()
        case 429:
            return UpstreamRateLimited(retry_delay=retry_after(exc.response))
        case 529:
            return UpstreamOverloaded(retry_delay=retry_after(exc.response))
        case code if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code in (408, 409):
            return UpstreamUnavailable(retry_delay=retry_after(exc.response))
    named = isinstance(exc.type, str) and _ERROR_TYPE.fullmatch(exc.type)
    return UpstreamRejected(type=named.group() if named else "unknown")


def _out_of_credit(exc: Any) -> bool:
    """Returns whether the account has reached a spending limit.

    https://platform.claude.com/docs/en/api/errors, …/api/rate-limits. Spending caps are reported as rate limits with
    their own codes. Limits set by the account itself are reported as invalid requests, recognizable only by their text.
    """
    spent = exc.status_code == HTTPStatus.PAYMENT_REQUIRED or exc.type == "billing_error"
    message = exc.api_message if exc.status_code == HTTPStatus.BAD_REQUEST else None
    return spent or exc.error_code in SPEND_CODES or (isinstance(message, str) and _SPENT.match(message) is not None)


def retry_after(response: Any) -> float | None:
    """Returns the seconds in `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3: seconds or a date)."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / unit
    try:
        return max(0.0, parsedate_to_datetime(response.headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
