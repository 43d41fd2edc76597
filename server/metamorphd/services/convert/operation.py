"""Converts operations to protobuf."""

from metamorph_client.vault.v1 import operation_pb2

from metamorphd.models.operation import Operation
from metamorphd.services.convert.time import timestamp


def operation_to_proto(operation: Operation) -> operation_pb2.Operation:
    """Returns an operation."""
    proto = operation_pb2.Operation(
        operation_id=operation.operation_id,
        vault_id=operation.vault_id,
        kind=operation_pb2.OperationKind.Value(f"OPERATION_KIND_{operation.kind.name}"),
        target=operation.target,
        creator=operation.creator,
        create_time=timestamp(operation.create_time),
        done=operation.end_time is not None,
        end_time=timestamp(operation.end_time),
        progress=operation_pb2.OperationProgress(
            done_count=operation.progress.done,
            total_count=operation.progress.total,
            unit=operation.progress.unit,
        ),
    )
    if operation.failure is not None:
        failure = operation.failure
        proto.error.CopyFrom(operation_pb2.OperationError(reason=failure.reason, message=failure.message))
    elif operation.end_time is not None:
        proto.result.CopyFrom(operation_pb2.OperationResult(counts=operation.counts))
    return proto
