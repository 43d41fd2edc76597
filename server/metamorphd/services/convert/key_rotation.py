"""Converts the state of a rotation to protobuf."""

from metamorph_client.admin.v1 import admin_service_pb2

from metamorphd.models.data_key import KeyRotation
from metamorphd.services.convert.time import timestamp


def key_rotation_to_proto(rotation: KeyRotation) -> admin_service_pb2.KeyRotation:
    """Returns the state of a rotation."""
    return admin_service_pb2.KeyRotation(
        key_id=rotation.key_id,
        key_time=timestamp(rotation.key_time),
        left_count=rotation.left,
        unavailable_count=rotation.unavailable,
        operation_id=rotation.operation_id,
    )
