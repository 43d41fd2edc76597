"""docs/errors.md."""

import string

from metamorph_client.api.v1.error_reason_pb2 import ErrorReason
from metamorphd import errors
from metamorphd.errors import DomainError

from scripts.docs.markdown import NOTICE, code, table
from scripts.docs.protos import ENUM_VALUES, ENUMS, files

ERRORS_INTRO = """\
# Errors

A refused call ends with a gRPC status. Its `google.rpc.Status` details are:

- `ErrorInfo`: `reason` is one of those below, `domain` is `metamorph`, and `metadata` holds the keys in the table.
- `RequestInfo`: the call ID, which is also in the server's log.
- `RetryInfo` where waiting helps: repeat the call after `retry_delay`.
- `BadRequest` for a field that breaks its rule, with one entry per field.
- `QuotaFailure` for a budget that is used up.

Branch on the reason, not on the message. Reasons are never renamed, but new ones are added, so treat a reason that you
do not know by its status code. The transport itself refuses oversized messages and metadata, without these details.
"""
IN_A_TURN = "In a turn: "
TURN_INTRO = """\
A turn that has started reports its failure in `TurnFinished.error`, and the stream itself ends OK. `retry_delay` is set
where waiting helps and the time is known.
"""


def error_classes() -> dict[str, type[DomainError]]:
    """The class of each reason, by the enum value's name."""
    found = (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, DomainError))
    return {ErrorReason.Name(value.reason): value for value in found if "reason" in vars(value)}


def errors_page() -> str:
    """docs/errors.md."""
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    classes = error_classes()
    for name, comment in reason_comments().items():
        if name not in classes:
            continue
        error = classes[name]
        # The comment begins with code and keys, which have columns of their own.
        meaning = comment.removeprefix(IN_A_TURN).partition(". ")[2]
        keys = [key for _, key, _, _ in string.Formatter().parse(error.message) if key]
        row = f"`{error.reason_name()}`", error.code.name, ", ".join(map(code, keys)), f"“{error.message}”", meaning
        rows[comment.startswith(IN_A_TURN)].append(row)
    columns = "Reason", "Status", "Metadata", "Message", "Meaning, and what to do"
    return (
        f"{NOTICE}{ERRORS_INTRO}\n## Refusals\n\n{table(columns, rows[False])}\n"
        f"## Failed turns\n\n{TURN_INTRO}\n{table(columns, rows[True])}"
    )


def reason_comments() -> dict[str, str]:
    """The comment of each ErrorReason value."""
    for file, comments in files():
        for index, enum in enumerate(file.enum_type):
            if enum.name == "ErrorReason":
                values = enumerate(enum.value)
                return {value.name: comments[(ENUMS, index, ENUM_VALUES, number)] for number, value in values}
    raise LookupError("no ErrorReason in the protos")
