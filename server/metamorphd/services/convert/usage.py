"""Converts usage to protobuf, and queries for it from protobuf."""

from metamorph_client.chat.v1 import message_pb2
from metamorph_client.vault.v1 import usage_pb2, vault_service_pb2

from metamorphd.errors import FieldViolation, RequestInvalid
from metamorphd.models.usage import SubjectKind, Usage, UsageRow

GROUPINGS = {
    SubjectKind.SESSION: usage_pb2.USAGE_GROUPING_SESSION,
    SubjectKind.USER: usage_pb2.USAGE_GROUPING_USER,
    SubjectKind.LABEL: usage_pb2.USAGE_GROUPING_LABEL,
}


def usage_to_proto(usage: Usage) -> message_pb2.Usage:
    """Returns token counts and their cost."""
    return message_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_usd_nanos=usage.cost_usd_nanos,
        estimated=usage.estimated,
    )


def usage_row_to_proto(row: UsageRow) -> usage_pb2.UsageRow:
    """Returns a row of usage."""
    return usage_pb2.UsageRow(
        day=row.day,
        model=row.model,
        session_id=row.session_id,
        usage=usage_to_proto(row.usage),
        turns=row.turns,
        user_id=row.user_id,
        label=row.label,
    )


def usage_subject(request: vault_service_pb2.GetUsageRequest) -> tuple[SubjectKind, str | None]:
    """Returns what a query groups or filters by besides days and models, and the only one that it asks for, if any.

    That of a query that does neither is SESSION. Raises RequestInvalid for more than one kind, as usage is not kept by
    two of them.
    """
    asked = {
        SubjectKind.SESSION: request.session_id if request.HasField("session_id") else None,
        SubjectKind.USER: request.user_id if request.HasField("user_id") else None,
        SubjectKind.LABEL: request.label if request.HasField("label") else None,
    }
    kinds = [kind for kind, subject in asked.items() if GROUPINGS[kind] in request.group_by or subject is not None]
    if len(kinds) > 1:
        description = "takes one of session, user and label, in grouping and filters together"
        raise RequestInvalid(violations=[FieldViolation("group_by", description)])
    kind = kinds[0] if kinds else SubjectKind.SESSION
    return kind, asked[kind]
