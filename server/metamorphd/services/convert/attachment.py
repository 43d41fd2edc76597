"""Converts attachments to protobuf."""

from metamorph_client.chat.v1 import attachment_pb2

from metamorphd.models.attachment import Attachment
from metamorphd.services.convert.time import timestamp


def attachment_to_proto(attachment: Attachment) -> attachment_pb2.Attachment:
    """Returns an attachment without its bytes."""
    return attachment_pb2.Attachment(
        attachment_id=attachment.attachment_id,
        media_type=attachment.media_type,
        size_bytes=attachment.size,
        sha256=attachment.sha256,
        create_time=timestamp(attachment.create_time),
    )
