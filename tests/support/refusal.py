"""Refused calls."""

from typing import Any

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from grpc_status import rpc_status


class Refusal:
    """A refused call with its details unpacked."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        self.info, self.retry, self.request, self.fields = ErrorInfo(), None, RequestInfo(), []
        self.quotas = QuotaFailure()
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            if detail.Unpack(self.info) or detail.Unpack(self.request) or detail.Unpack(self.quotas):
                continue
            retry, bad_request = RetryInfo(), BadRequest()
            if detail.Unpack(retry):
                self.retry = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad_request):
                self.fields = [violation.field for violation in bad_request.field_violations]

    @property
    def reason(self) -> str:
        """Returns the reason from ErrorInfo."""
        return str(self.info.reason)


async def refused(call: Any) -> Refusal:
    """Returns the refusal of a unary call or stream. Raises AssertionError if the call succeeds."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Refusal(error)
    raise AssertionError("the call was not refused")


def comparable(refusal: Refusal, value: str) -> tuple[object, ...]:
    """Returns the contents of a refusal, with `value` replaced by a placeholder and without the call id."""
    metadata = {key: text.replace(value, "ID") for key, text in refusal.info.metadata.items()}
    message = refusal.message.replace(value, "ID")
    return refusal.code, refusal.reason, message, metadata, refusal.retry, refusal.fields
