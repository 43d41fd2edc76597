"""Every error of a call or a turn: code, reason and message, stated once.

There is one error class for each `ErrorReason`. The keyword arguments of an error become the `metadata` of ErrorInfo;
the enum's comments list the keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from metamorph_client.api.v1.error_reason_pb2 import ErrorReason

DOMAIN = "metamorph"
# Bounds text that came from the caller: errors are sent as trailers, and clients reject more than 16 KiB of those.
LONGEST_METADATA = 512


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """The path of an invalid field, and a description of the problem."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """The name of a quota that is used up, and an explanation."""

    subject: str
    description: str


def reason_name(reason: "ErrorReason.ValueType") -> str:
    """Returns a reason as it is sent, for example `SESSION_NOT_FOUND`."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


class DomainError(Exception):
    """An error that a caller sees. The message never contains a caller's content, a path, SQL or a key."""

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar["ErrorReason.ValueType"]
    message: ClassVar[str]

    def __init__(
        self,
        *,
        retry_delay: float | None = None,
        violations: Sequence[FieldViolation] = (),
        quotas: Sequence[QuotaViolation] = (),
        **metadata: str | int,
    ) -> None:
        self.metadata = {key: str(value)[:LONGEST_METADATA] for key, value in metadata.items()}
        self.retry_delay = retry_delay
        self.violations = violations
        self.quotas = quotas
        super().__init__(self.message.format(**self.metadata))

    @classmethod
    def reason_name(cls) -> str:
        """Returns the reason as it is sent, for example `SESSION_NOT_FOUND`."""
        return reason_name(cls.reason)

    def to_status(self, *, call_id: str) -> Status:
        """Returns the google.rpc.Status (AIP-193), with ErrorInfo and RequestInfo.

        RetryInfo, BadRequest and QuotaFailure follow if they apply, in this order.
        """
        details: list[ProtoMessage] = [
            error_details_pb2.ErrorInfo(reason=self.reason_name(), domain=DOMAIN, metadata=self.metadata),
            error_details_pb2.RequestInfo(request_id=call_id),
        ]
        if self.retry_delay is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_delay * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
                for violation in self.violations
            ]
            details.append(error_details_pb2.BadRequest(field_violations=fields))
        if self.quotas:
            used_up = [
                error_details_pb2.QuotaFailure.Violation(subject=quota.subject, description=quota.description)
                for quota in self.quotas
            ]
            details.append(error_details_pb2.QuotaFailure(violations=used_up))
        status = Status(code=self.code.value[0], message=str(self))
        for detail in details:
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


# One base class per status code.


class InvalidArgument(DomainError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(DomainError):
    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(DomainError):
    code = grpc.StatusCode.PERMISSION_DENIED


class NotFound(DomainError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(DomainError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(DomainError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(DomainError):
    code = grpc.StatusCode.ABORTED


class OutOfRange(DomainError):
    code = grpc.StatusCode.OUT_OF_RANGE


class ResourceExhausted(DomainError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(DomainError):
    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(DomainError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class DataLoss(DomainError):
    code = grpc.StatusCode.DATA_LOSS


# The server itself.


class Internal(DomainError):
    code = grpc.StatusCode.INTERNAL
    reason, message = ErrorReason.ERROR_REASON_INTERNAL, "the server failed; its log has details under this call id"


class StoreNotReady(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_STORE_NOT_READY, "the store is not open"


class StoreBusy(ResourceExhausted):
    reason, message = ErrorReason.ERROR_REASON_STORE_BUSY, "too many operations are waiting for the store"


class StorageFull(ResourceExhausted):
    reason, message = ErrorReason.ERROR_REASON_STORAGE_FULL, "the volume is full; nothing was stored"


class OperationTimeout(DeadlineExceeded):
    reason = ErrorReason.ERROR_REASON_OPERATION_TIMEOUT
    message = "the operation was stopped after {limit_milliseconds} ms in the store; nothing was stored"


class SearchTooBroad(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_SEARCH_TOO_BROAD
    message = "the search was stopped after {limit_milliseconds} ms; search for more or rarer words"


class ServerDraining(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_SERVER_DRAINING, "the server is shutting down"


# Authentication and permission.


class TokenMissing(Unauthenticated):
    reason = ErrorReason.ERROR_REASON_TOKEN_MISSING
    message = "exactly one authorization entry, `Bearer <token>`, is required"


class TokenRefused(Unauthenticated):
    """The base of refusals of a token that was sent.

    `why` names the claim or header parameter at fault and what is wrong with it, and contains nothing of the token. It
    is for the log, and for callers in dev mode.
    """

    def __init__(
        self,
        why: str = "",
        *,
        retry_delay: float | None = None,
        violations: Sequence[FieldViolation] = (),
        quotas: Sequence[QuotaViolation] = (),
        **metadata: str | int,
    ) -> None:
        super().__init__(retry_delay=retry_delay, violations=violations, quotas=quotas, **metadata)
        self.why = why

    def explain(self) -> None:
        """Adds `why` to the message that the caller sees."""
        self.args = (f"{self.message}: {self.why}" if self.why else self.message,)


class TokenInvalid(TokenRefused):
    reason, message = ErrorReason.ERROR_REASON_TOKEN_INVALID, "the token is invalid"


class TokenExpired(TokenRefused):
    reason, message = ErrorReason.ERROR_REASON_TOKEN_EXPIRED, "the token has expired"


class TokenRevoked(TokenRefused):
    reason, message = ErrorReason.ERROR_REASON_TOKEN_REVOKED, "the token is revoked"


class IdentityUnavailable(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_IDENTITY_UNAVAILABLE, "the issuer of this token cannot be reached"


class VaultHeaderNotAllowed(InvalidArgument):
    reason = ErrorReason.ERROR_REASON_VAULT_HEADER_NOT_ALLOWED
    message = "x-vault-id is allowed once, in dev mode, and without a token; otherwise the token names the vault"


class PermissionMissing(PermissionDenied):
    reason, message = ErrorReason.ERROR_REASON_PERMISSION_MISSING, "the permission {permission} is required"


class RateLimited(ResourceExhausted):
    reason, message = ErrorReason.ERROR_REASON_RATE_LIMITED, "too many calls"


# Requests.


class ReaderTooSlow(Aborted):
    reason, message = ErrorReason.ERROR_REASON_READER_TOO_SLOW, "the caller did not read from this stream for too long"


class SenderTooSlow(Aborted):
    reason, message = ErrorReason.ERROR_REASON_SENDER_TOO_SLOW, "the caller did not send on this stream for too long"


class RequestMalformed(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_REQUEST_MALFORMED, "the request is not a message of this method's type"


class RequestInvalid(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_REQUEST_INVALID, "fields of the request are invalid"


class PageTokenInvalid(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_PAGE_TOKEN_INVALID, "the page_token does not belong to this query"


class UpdateMaskInvalid(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_UPDATE_MASK_INVALID, "update_mask must not contain '{path}'"


class ContentTooLarge(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_CONTENT_TOO_LARGE, "the content is larger than {limit_bytes} bytes"


class RequestTooLarge(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, "the request is larger than {limit_bytes} bytes"


class TooManyFields(InvalidArgument):
    reason = ErrorReason.ERROR_REASON_TOO_MANY_FIELDS
    message = "a {message} of the request has more than {limit} fields and list entries"


class BytesInFlightExceeded(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_BYTES_IN_FLIGHT_EXCEEDED
    message = "requests in progress take up the {limit_bytes} bytes that they share"


class ByteRateExceeded(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_BYTE_RATE_EXCEEDED
    message = "large requests of this vault arrive faster than {bytes_per_second} bytes a second"


class RequestIdReused(AlreadyExists):
    reason, message = ErrorReason.ERROR_REASON_REQUEST_ID_REUSED, "request_id {request_id} was used for another request"


class EtagMismatch(Aborted):
    reason, message = ErrorReason.ERROR_REASON_ETAG_MISMATCH, "the resource has changed since its etag was read"


class ModelNotAccepted(InvalidArgument):
    reason, message = (
        ErrorReason.ERROR_REASON_MODEL_NOT_ACCEPTED,
        "the model {model} is not among those that ListModels returns",
    )


class AttachmentTooLarge(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_ATTACHMENT_TOO_LARGE, "the attachment is larger than {limit_bytes} bytes"


class AttachmentTypeMismatch(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_ATTACHMENT_TYPE_MISMATCH, "the attachment's bytes are not {media_type}"


# Resources of a vault.


class SessionNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_SESSION_NOT_FOUND, "no session {session_id}"


class MessageNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_MESSAGE_NOT_FOUND, "no message {message_id}"


class TurnNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_TURN_NOT_FOUND, "no turn {turn_id}"


class BranchBusy(FailedPrecondition):
    reason, message = ErrorReason.ERROR_REASON_BRANCH_BUSY, "turn {turn_id} is still running on this branch"


class TooManyTurns(ResourceExhausted):
    reason, message = ErrorReason.ERROR_REASON_TOO_MANY_TURNS, "{limit} turns of this vault are already running"


class SequenceAhead(OutOfRange):
    reason, message = ErrorReason.ERROR_REASON_SEQUENCE_AHEAD, "the turn's newest event is {last_sequence}"


class RevisionCompacted(OutOfRange):
    reason = ErrorReason.ERROR_REASON_REVISION_COMPACTED
    message = "changes before revision {oldest_revision} are no longer kept"


class RevisionAhead(OutOfRange):
    reason, message = ErrorReason.ERROR_REASON_REVISION_AHEAD, "the vault's newest revision is {newest_revision}"


class RevisionReplaced(OutOfRange):
    reason = ErrorReason.ERROR_REASON_REVISION_REPLACED
    message = "revision {revision} is of another change than before"


class RevisionNotReached(Unavailable):
    reason = ErrorReason.ERROR_REASON_REVISION_NOT_REACHED
    message = "the server's store has the vault as of revision {newest_revision}"


class AttachmentNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_ATTACHMENT_NOT_FOUND, "no attachment {attachment_id}"


class SecretNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_SECRET_NOT_FOUND, "no secret {name}"


class MemoryNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_MEMORY_NOT_FOUND, "no memory {memory_id}"


class MemoryExists(AlreadyExists):
    reason = ErrorReason.ERROR_REASON_MEMORY_EXISTS
    message = "memory {memory_id} has this type and content"


class SecretVersionNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_SECRET_VERSION_NOT_FOUND, "secret {name} has no version {version}"


class SecretVersionDestroyed(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_SECRET_VERSION_DESTROYED
    message = "the value of version {version} of secret {name} was destroyed"


class SecretVersionMismatch(Aborted):
    reason = ErrorReason.ERROR_REASON_SECRET_VERSION_MISMATCH
    message = "the newest version of the secret is {version}"


class EncryptionNotConfigured(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_ENCRYPTION_NOT_CONFIGURED
    message = "the server has no key to encrypt with; its operator must set TOKEN_ENCRYPTION_KEY"


class KeyUnavailable(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_KEY_UNAVAILABLE
    message = "the server does not have key {key_id}, which is needed to decrypt; its operator must give it back"


class CiphertextDamaged(DataLoss):
    reason = ErrorReason.ERROR_REASON_CIPHERTEXT_DAMAGED
    message = "what is encrypted with key {key_id} was changed, or is not where it was stored"


class BackupNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_BACKUP_NOT_FOUND, "no backup {name}"


class ExportNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_EXPORT_NOT_FOUND, "no export {export_id}; begin a new one"


class ImportInvalid(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_IMPORT_INVALID, "line {line} cannot be imported: {detail} ({fault})"


class ImportRunning(FailedPrecondition):
    reason, message = ErrorReason.ERROR_REASON_IMPORT_RUNNING, "another import into this vault goes on"


class BackupBusy(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_BACKUP_BUSY
    message = "{name} is being made or verified; wait until it is done"


class ReadOnly(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_READ_ONLY
    message = "this server only reads; write to the primary, {primary}"


class ToolResultRequired(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_TOOL_RESULT_REQUIRED
    message = "the message must begin with the results of these tool calls, and no others: {tool_use_ids}"


class ToolResultUnexpected(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_TOOL_RESULT_UNEXPECTED
    message = "no tool calls with these ids are pending: {tool_use_ids}"


class NotAUserMessage(FailedPrecondition):
    reason, message = ErrorReason.ERROR_REASON_NOT_A_USER_MESSAGE, "message {message_id} is not a user message"


class MessageDeleted(FailedPrecondition):
    reason, message = ErrorReason.ERROR_REASON_MESSAGE_DELETED, "the content of message {message_id} was deleted"


class VaultSuspended(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_VAULT_SUSPENDED
    message = "the vault has been suspended since {suspend_time}: {suspend_reason}"


class VaultDeleted(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_VAULT_DELETED
    message = "the vault was deleted at {delete_time}; an operator can release its id"


class BudgetExceeded(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_BUDGET_EXCEEDED
    message = "the budget {budget} of {limit} of {subject} is used up until {reset_time}"


class StorageQuotaExceeded(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_STORAGE_QUOTA_EXCEEDED
    message = "the vault stores {stored_bytes} bytes of at most {limit_bytes}; delete something first"


class MemoryLimitExceeded(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_MEMORY_LIMIT_EXCEEDED
    message = "the vault has {limit} memories, as many as it may have; delete some first"


# Failures of a turn.


class UpstreamUnauthenticated(Unavailable):
    reason = ErrorReason.ERROR_REASON_UPSTREAM_UNAUTHENTICATED
    message = "the model provider refused the server's credentials; the operator must act"


class UpstreamRateLimited(ResourceExhausted):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED, "the model provider's rate limit is reached"


class UpstreamOverloaded(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED, "the model provider is overloaded"


class UpstreamRejected(InvalidArgument):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_REJECTED, "the model provider rejected the request ({type})"


class UpstreamUnavailable(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, "the model provider failed before it sent a reply"


class UpstreamInterrupted(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_INTERRUPTED, "the reply was cut off"


class UpstreamFailed(Unavailable):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_FAILED, "the model provider reported an error without a type"


class UpstreamNotAStream(Unavailable):
    reason = ErrorReason.ERROR_REASON_UPSTREAM_NOT_A_STREAM
    message = "the model provider's address answers with {content_type}, not with a reply; the operator must act"


class UpstreamRedirected(Unavailable):
    reason = ErrorReason.ERROR_REASON_UPSTREAM_REDIRECTED
    message = "the model provider's address redirects to another one; the operator must act"


class UpstreamStalled(DeadlineExceeded):
    reason, message = ErrorReason.ERROR_REASON_UPSTREAM_STALLED, "the model provider stopped sending"


class UpstreamSpendLimit(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_UPSTREAM_SPEND_LIMIT
    message = "the server's account with the model provider is out of credit; the operator must act"


class TurnTimeout(DeadlineExceeded):
    reason, message = ErrorReason.ERROR_REASON_TURN_TIMEOUT, "the turn exceeded its time limit"


class TurnInterrupted(Aborted):
    reason, message = ErrorReason.ERROR_REASON_TURN_INTERRUPTED, "the server stopped while the turn was running"


# Operations.


class OperationNotFound(NotFound):
    reason, message = ErrorReason.ERROR_REASON_OPERATION_NOT_FOUND, "no operation {operation_id}"


class OperationNotCancellable(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_OPERATION_NOT_CANCELLABLE
    message = "operation {operation_id} cannot be cancelled"


class TooManyOperations(ResourceExhausted):
    reason = ErrorReason.ERROR_REASON_TOO_MANY_OPERATIONS
    message = "{limit} operations of this vault are already going on"


class OperationCancelled(Aborted):
    reason, message = ErrorReason.ERROR_REASON_OPERATION_CANCELLED, "the operation was cancelled"


class OperationInterrupted(Aborted):
    reason = ErrorReason.ERROR_REASON_OPERATION_INTERRUPTED
    message = "the server stopped before the end of the operation"


# Deleting vaults.


class ConfirmationMismatch(InvalidArgument):
    reason = ErrorReason.ERROR_REASON_CONFIRMATION_MISMATCH
    message = "confirmation must be the ID of the vault, {vault_id}; nothing was deleted"


class VaultNotDeleted(FailedPrecondition):
    reason, message = ErrorReason.ERROR_REASON_VAULT_NOT_DELETED, "the vault is not deleted"


class VaultBeingErased(FailedPrecondition):
    reason = ErrorReason.ERROR_REASON_VAULT_BEING_ERASED
    message = "the vault is still being erased, by operation {operation_id}"


# Failures of the process.


class StartupRefused(Exception):
    """Raised if the server cannot start. The message states the reason and the remedy in one line.

    Never sent to a caller.
    """


class AuthorityFailed(Exception):
    """Raised if a time stamping authority gives no token that is good. Its text says why. Never sent to a caller."""


class ReplicaFailed(Exception):
    """Raised if a replica cannot be read, or a copy of it cannot be served. Never sent to a caller."""


class ServerFailed(Exception):
    """Raised if a running server cannot go on, and must be started again. Never sent to a caller."""
