"""Converts backups to protobuf."""

from metamorph_client.admin.v1 import backup_pb2

from metamorphd.models.backup import Backup
from metamorphd.services.convert.time import timestamp


def backup_to_proto(backup: Backup) -> backup_pb2.Backup:
    """Returns a backup."""
    proto = backup_pb2.Backup(
        name=backup.name,
        state=backup_pb2.BackupState.Value(f"BACKUP_STATE_{backup.state}"),
        size_bytes=backup.size,
        progress=backup.progress,
        fault=backup.fault,
        copy_fault=backup.copy_fault,
        operation_id=backup.operation_id,
    )
    if (copy := backup.copy) is not None:
        proto.copy.CopyFrom(
            backup_pb2.BackupCopy(
                url=backup.copy_url,
                size_bytes=copy.size,
                sha256=copy.sha256,
                create_time=timestamp(copy.create_time),
                verify_time=timestamp(copy.verify_time) if copy.verify_time else None,
            )
        )
    if (manifest := backup.manifest) is not None:
        proto.MergeFrom(
            backup_pb2.Backup(
                create_time=timestamp(manifest.create_time),
                sha256=manifest.sha256,
                schema_version=manifest.schema_version,
                row_counts=manifest.row_counts,
                verify_time=timestamp(manifest.verify_time),
                server_version=manifest.server_version,
            )
        )
    return proto
