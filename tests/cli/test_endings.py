"""What a command says of a call that fails, and the exit code that it ends with."""

import grpc
import pytest
from metamorph_client import MetamorphError
from metamorphd.cli.endings import failed_call

HINTS = {grpc.StatusCode.UNAVAILABLE: "is a server running?", grpc.StatusCode.UNAUTHENTICATED: "pass --token"}


@pytest.mark.parametrize(
    ("code", "reason", "hint", "ended"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", " (is a server running?)", 3),
        (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "", 3),
        (grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE", " (pass --token)", 3),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", " (pass --token)", 4),
        (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "", 1),
    ],
)
def test_a_hint_is_for_the_reason_of_a_refusal(code: grpc.StatusCode, reason: str, hint: str, ended: int) -> None:
    end = failed_call(MetamorphError(code, reason, "no \x1b[2J"), HINTS)
    assert (end.message.endswith(f"no \ufffd[2J{hint}"), end.exit_code) == (True, ended)
