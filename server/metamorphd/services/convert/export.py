"""Converts exports to protobuf."""

from metamorph_client.vault.v1 import export_pb2

from metamorphd.models.export import Export
from metamorphd.services.convert.time import timestamp


def export_to_proto(export: Export) -> export_pb2.Export:
    """Returns an export."""
    return export_pb2.Export(
        export_id=export.export_id,
        create_time=timestamp(export.create_time),
        size_bytes=export.size,
        expected_bytes=export.expected_size,
        operation_id=export.operation_id,
    )
