"""How a command ends if it cannot do its work: with a line on standard error, and an exit code that says why."""

from collections.abc import Mapping

import click
import grpc
from metamorph_client import MetamorphError

from metamorphd.cli.listing import printable


class Unreachable(click.ClickException):
    """The server cannot be reached, or cannot answer now."""

    exit_code = 3


class Unauthorized(click.ClickException):
    """The server does not accept the token for the call."""

    exit_code = 4


# Others are 1, and 2 for arguments, as click has it.
ENDINGS: dict[grpc.StatusCode, type[click.ClickException]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.PERMISSION_DENIED: Unauthorized,
}

# By what the core says of a handshake.
TLS_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "name the authority of the server's certificate with --ca, and the server as it does",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS; leave out grpcs://, --tls, --ca and --cert",
    "Socket closed": "is the server running? if it speaks TLS, name it as grpcs://host:port",
}


def failed_call(error: MetamorphError, hints: Mapping[grpc.StatusCode, str]) -> click.ClickException:
    """Returns the end of a command whose call fails: the error, the fields that are invalid, and a hint."""
    violations = (f"{violation.field}: {violation.description}" for violation in error.violations)
    faults = printable("; ".join([f"{error.reason or error.code.name}: {error.message}", *violations]))
    hint = _hint(error, hints)
    return ENDINGS.get(error.code, click.ClickException)(f"{faults}{f' ({hint})' if hint else ''}")


def _hint(error: MetamorphError, hints: Mapping[grpc.StatusCode, str]) -> str | None:
    for sign, hint in TLS_HINTS.items():
        if sign in error.message:
            return hint
    if error.reason == "IDENTITY_UNAVAILABLE":
        return hints.get(grpc.StatusCode.UNAUTHENTICATED)
    # A server that gives a reason is running.
    answered = error.code is grpc.StatusCode.UNAVAILABLE and error.reason
    return None if answered else hints.get(error.code)
