"""The one error of every call, whether a unary one or a stream, of a stub or of a method of the client."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

STATUS_DETAILS = "grpc-status-details-bin"
CALL_ID = "x-request-id"
# A stream that ends with one of these can be resumed, because the turn may still be running.
RESUMABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
# A new token helps with the first two, and waiting with the others.
SHOWN_VIOLATIONS = 3
TOKEN_REASONS = {"TOKEN_EXPIRED", "TOKEN_REVOKED"}
RESUMABLE_REASONS = {*TOKEN_REASONS, "RATE_LIMITED", "READER_TOO_SLOW", "STORE_BUSY"}
# What gRPC's core says of a handshake that no further attempt can change, and what that means.
TLS_FAULTS = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted: name its authority as `ca`, and the server"
    " as its certificate does",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS: leave out `tls` and grpcs://",
}


class Violation(NamedTuple):
    """A field of a request that breaks a rule, and the rule."""

    field: str
    description: str


class MetamorphError(Exception):
    """A call that failed, most often because the server refused it.

    `reason` is an ErrorReason without its prefix, or empty if the error has none. `retry_delay` is how long to wait
    before another attempt, in seconds, if the server says so. `violations` are the fields that are invalid. `call_id`
    names the call in the server's log. `resumable` is whether the same call, or StreamTurn, may succeed later.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_delay: float | None = None,
        violations: Iterable[Violation] = (),
        call_id: str = "",
        resumable: bool | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_delay = retry_delay
        self.violations = tuple(violations)
        self.call_id = call_id
        # A server that names a delay expects the call again.
        waits = retry_delay is not None or _is_resumable(code, reason, message)
        self.resumable = waits if resumable is None else resumable
        # What pickle makes another one of, before it adds the attributes.
        super().__init__(code, reason, message)

    def __str__(self) -> str:
        shown = [f"{field}: {rule}" if field else rule for field, rule in self.violations[:SHOWN_VIOLATIONS]]
        if more := len(self.violations) - len(shown):
            shown.append(f"and {more} more")
        invalid = f" ({'; '.join(shown)})" if shown else ""
        return f"{self.reason or self.code.name}: {self.message}{invalid}"

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError, *, new_token: bool = True) -> Self:
        """Returns the error of a failed call, with its google.rpc details (AIP-193) unpacked.

        `new_token` is whether another attempt would be made with another token.
        """
        info, retry, request, invalid = ErrorInfo(), RetryInfo(), RequestInfo(), BadRequest()
        delay, call_id = None, ""
        for key, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())):
            if key == CALL_ID and isinstance(value, str):
                call_id = value
            if key == STATUS_DETAILS and isinstance(value, bytes):
                for detail in Status.FromString(value).details:
                    if detail.Unpack(retry):
                        delay = retry.retry_delay.ToTimedelta().total_seconds()
                    for message in (info, request, invalid):
                        detail.Unpack(message)
        message = error.details() or ""
        hint = _tls_fault(message)
        return cls(
            error.code(),
            info.reason,
            f"{hint} ({message})" if hint else message,
            metadata=info.metadata,
            retry_delay=delay,
            violations=[Violation(each.field, each.description) for each in invalid.field_violations],
            call_id=request.request_id or call_id,
            resumable=False if info.reason in TOKEN_REASONS and not new_token else None,
        )

    @classmethod
    def incomplete(cls, message: str) -> Self:
        """Returns the error of a stream that has ended OK, or goes on, without an event that it must have."""
        return cls(grpc.StatusCode.INTERNAL, "", message)

    @classmethod
    def closed(cls) -> Self:
        """Returns the error of a call over a connection that this client has closed."""
        return cls(grpc.StatusCode.CANCELLED, "", "the client is closed", resumable=False)


class TokenFailed(MetamorphError):
    """No attempt was made, because the function that is asked for a token has failed, or takes too long.

    Callers get `failure` itself, except `on_retry`.
    """

    failure: Exception

    @classmethod
    def by(cls, failure: Exception) -> Self:
        """Returns the error of a token function that has raised something."""
        code = failure.code if isinstance(failure, MetamorphError) else grpc.StatusCode.UNAVAILABLE
        error = cls(code, "", f"no token: {failure!s}" if str(failure) else f"no token: {failure!r}", resumable=True)
        error.failure = error.__cause__ = failure
        return error


def _is_resumable(code: grpc.StatusCode, reason: str, message: str) -> bool:
    return reason in RESUMABLE_REASONS or (code in RESUMABLE and not _tls_fault(message))


def _tls_fault(message: str) -> str | None:
    return next((meaning for sign, meaning in TLS_FAULTS.items() if sign in message), None)
