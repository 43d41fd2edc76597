"""docs/errors.md."""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from metamorph_client.api.v1.error_reason_pb2 import ErrorReason
from metamorphd import errors
from metamorphd.errors import DomainError

from scripts.docs.links import linked
from scripts.docs.markdown import NOTICE, code, table
from scripts.docs.protos import ENUM_VALUES, ENUMS, files

RETRIES = {
    "yes": "the same call, with backoff",
    "after the delay": "the same call, after the `retry_delay` of `RetryInfo`, or with backoff if there is none",
    "with a new token": "the same call, with another token",
    "once mended": "the same call, but only once what stands in its way is gone",
    "changed": "not the same call, but a corrected one",
    "no": "never",
}
ERRORS_INTRO = """\
# Errors

Look a reason up here to learn what happened, whether to repeat the call, and what to do.

A refused call ends with a gRPC status. Its `google.rpc.Status` details are:

- `ErrorInfo`: `reason` is one of those below, `domain` is `metamorph`, and `metadata` has the keys that are listed.
- `RequestInfo`: the call ID, which is also in the server's log.
- `RetryInfo` where waiting helps: repeat the call after `retry_delay`.
- `BadRequest` for a field that breaks its rule, with one entry per field.
- `QuotaFailure` for a budget that is used up.

Branch on the reason, not on the message. Reasons are never renamed, but new ones are added, so treat a reason that you
do not know by its status code. The transport itself refuses oversized messages and metadata, without these details.
"""
RETRY_INTRO = """\
A call that may be repeated is repeated with its `request_id`, so that nothing is done twice.
"""
IN_A_TURN = "In a turn: "
TURN_INTRO = """\
A turn that has started reports its failure in `TurnFinished.error`, and the stream itself ends OK. `retry_delay` is set
where waiting helps and the time is known. To repeat means to send again, which is a new turn.
"""
COMMENT = re.compile(r"(?:In a turn: )?[A-Z_]+(?: \([a-z_, ]+\))?\. (.+) Retry: ([a-z ]+)\. Cure: (.+)")


@dataclass(frozen=True)
class Advice:
    """The comment of a reason: what happened, a key of RETRIES, and what to do about it."""

    happened: str
    retry: str
    cure: str
    in_a_turn: bool


def advice(reason: str, comment: str) -> Advice:
    """The parts of a reason's comment. Raises ValueError if one is missing."""
    parts = COMMENT.fullmatch(comment)
    if parts is None or parts[2] not in RETRIES:
        raise ValueError(f"the comment of {reason} needs what happened, `Retry:` with one of {[*RETRIES]}, and `Cure:`")
    return Advice(parts[1], parts[2], parts[3], comment.startswith(IN_A_TURN))


def error_classes() -> dict[str, type[DomainError]]:
    """The class of each reason, by the enum value's name."""
    found = (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DomainError))
    return {ErrorReason.Name(value.reason): value for value in found if "reason" in vars(value)}


def errors_page() -> str:
    """docs/errors.md."""
    known = {error_classes()[name]: advice(name, comment) for name, comment in reason_comments().items()}
    parts = [NOTICE + ERRORS_INTRO, "## Repeating\n", RETRY_INTRO, table(("Retry", "Repeat"), RETRIES.items())]
    for title, intro, in_a_turn in (("Refusals", "", False), ("Failed turns", TURN_INTRO, True)):
        chosen = {error: one for error, one in known.items() if one.in_a_turn == in_a_turn}
        rows = (
            (f"[{error.reason_name()}](#{error.reason_name().lower()})", error.code.name, one.retry)
            for error, one in chosen.items()
        )
        parts += [f"## {title}\n", *([intro] if intro else []), table(("Reason", "Status", "Retry"), rows)]
        parts += [entry(error, one) for error, one in chosen.items()]
    return "\n".join(parts)


def entry(error: type[DomainError], one: Advice) -> str:
    """The part of the page about a reason."""
    return f"### {error.reason_name()}\n\n{linked(one.happened, 'errors.md')}\n\n" + "".join(facts(error, one))


def facts(error: type[DomainError], one: Advice) -> Iterator[str]:
    keys = [key for _, key, _, _ in string.Formatter().parse(error.message) if key]
    yield f"- Retry: **{one.retry}**\n- Do: {linked(one.cure, 'errors.md')}\n"
    yield f"- Status: `{error.code.name}`, “{error.message}”\n"
    if keys:
        yield f"- Metadata: {', '.join(map(code, keys))}\n"


def reason_comments() -> dict[str, str]:
    """The comment of each ErrorReason value that is sent."""
    for file, comments in files():
        for index, enum in enumerate(file.enum_type):
            if enum.name == "ErrorReason":
                values = [*enumerate(enum.value)][1:]
                return {value.name: comments[(ENUMS, index, ENUM_VALUES, number)] for number, value in values}
    raise LookupError("no ErrorReason in the protos")
