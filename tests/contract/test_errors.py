"""The error classes, the ErrorReason enum and its comments agree."""

import re
import string
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from metamorph_client.api.v1.error_reason_pb2 import ErrorReason
from metamorphd import errors
from metamorphd.errors import DomainError, FieldViolation, QuotaViolation

from tests.support.paths import ROOT

COMMENT = re.compile(r"((?:  //.*\n)+)  (ERROR_REASON_\w+) = \d+;")
HEAD = re.compile(r"(?:In a turn: )?([A-Z_]+)(?: \(([a-z_, ]+)\))?\. ")


def classes() -> list[type[DomainError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DomainError)]
    return [value for value in found if "reason" in vars(value)]


def comments() -> dict[str, tuple[str, set[str]]]:
    """Returns (status code, metadata keys) of each reason, as stated in its comment."""
    text = (ROOT / "proto/metamorph/api/v1/error_reason.proto").read_text()
    found = {}
    for comment, name in COMMENT.findall(text):
        head = HEAD.match(re.sub(r"^  // ?", "", comment, flags=re.MULTILINE))
        if head is not None:
            found[name] = (head[1], set(head[2].split(", ")) if head[2] else set())
    return found


def test_every_reason_has_one_class_and_every_class_one_reason() -> None:
    reasons = sorted(ErrorReason.Name(error.reason) for error in classes())
    assert reasons == sorted(set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"})


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_a_class_matches_the_comment_of_its_reason(error: type[DomainError]) -> None:
    fields = {name for _, name, _, _ in string.Formatter().parse(error.message) if name}
    assert comments()[ErrorReason.Name(error.reason)] == (error.code.name, fields)


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_a_status_carries_its_details(error: type[DomainError]) -> None:
    fields: dict[str, Any] = {name: "x" for _, name, _, _ in string.Formatter().parse(error.message) if name}
    details: dict[str, Any] = {
        "violations": [FieldViolation("a.b", "wrong")],
        "quotas": [QuotaViolation("c", "used up")],
    }
    status = error(retry_delay=1.5, **details, **fields).to_status(call_id="c-1")
    info, request, retry, bad, quota = ErrorInfo(), RequestInfo(), RetryInfo(), BadRequest(), QuotaFailure()
    for detail, message in zip(status.details, (info, request, retry, bad, quota), strict=True):
        assert detail.Unpack(message)
    assert status.code == error.code.value[0]
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason_name(), "metamorph", fields)
    assert request.request_id == "c-1"
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_000)
    assert [violation.field for violation in bad.field_violations] == ["a.b"]
    assert [(violation.subject, violation.description) for violation in quota.violations] == [("c", "used up")]
