"""Converts revocations to protobuf."""

from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.admin.v1 import admin_service_pb2

from metamorphd.models.revocation import Revocation
from metamorphd.services.convert.time import timestamp


def revocation_to_proto(revocation: Revocation) -> admin_service_pb2.Revocation:
    """Returns a revocation."""
    proto = admin_service_pb2.Revocation(
        revocation_id=revocation.revocation_id,
        vault_id=revocation.vault_id,
        note=revocation.note,
        creator=revocation.creator,
        create_time=timestamp(revocation.create_time),
    )
    if revocation.token_id is not None:
        proto.token_id = revocation.token_id
    if revocation.user_id is not None:
        proto.user_tokens.user_id = revocation.user_id
        proto.user_tokens.issued_before.CopyFrom(timestamp(revocation.issued_before) or Timestamp())
    return proto
