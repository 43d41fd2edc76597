"""Converts what a verification of logs finds to protobuf and back."""

from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1 import audit_pb2

from metamorphd.models.audit import AuditReport, LogHead
from metamorphd.models.caller import SERVER_LOG


def report_to_proto(report: AuditReport, *, resume_token: str) -> pb.VerifyAuditLogResponse:
    """Returns a part of a verification. Heads without a MAC, which could prove nothing, are left out."""
    return pb.VerifyAuditLogResponse(
        entry_count=report.entry_count,
        unprotected_count=report.unprotected_count,
        faults=(
            audit_pb2.AuditFault(
                vault_id=_shown(fault.vault_id),
                revision=fault.revision,
                kind=audit_pb2.AuditFaultKind.Value(f"AUDIT_FAULT_KIND_{fault.kind.name}"),
            )
            for fault in report.faults
        ),
        heads=(
            audit_pb2.AuditHead(vault_id=_shown(head.vault_id), revision=head.revision, mac=head.mac)
            for head in report.heads
            if head.mac
        ),
        resume_token=resume_token,
    )


def head_from_proto(head: audit_pb2.AuditHead) -> LogHead:
    """Returns an anchor."""
    return LogHead(head.vault_id or SERVER_LOG, head.revision, head.mac, 0)


def _shown(vault_id: str) -> str:
    """Returns a vault's ID as the API has it: empty for the server's own log."""
    return "" if vault_id == SERVER_LOG else vault_id
