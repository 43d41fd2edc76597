"""Converts findings to protobuf."""

from metamorph_client.admin.v1 import admin_service_pb2

from metamorphd.models.finding import Finding


def finding_to_proto(finding: Finding) -> admin_service_pb2.Finding:
    """Returns a finding."""
    return admin_service_pb2.Finding(
        name=finding.name,
        status=admin_service_pb2.FindingStatus.Value(f"FINDING_STATUS_{finding.status.name}"),
        what=finding.what,
        remedy=finding.remedy,
    )
