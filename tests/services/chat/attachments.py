"""Sends and requests attachments as a caller does."""

from pathlib import Path
from typing import Any

from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import (
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    Message,
)

from tests.support.caller import Caller
from tests.support.media import FILES
from tests.support.rows import row_counts

PNG, PDF, TEXT = FILES["image/png"], FILES["application/pdf"], FILES["text/plain"]
MIB = 1024 * 1024


def rows(directory: Path) -> tuple[int, ...]:
    """Returns how many attachments, pieces and uses the store holds."""
    return row_counts(directory, "attachments", "attachment_chunks", "attachment_uses")


def image(data: bytes = PNG, media_type: str = "image/png") -> ContentBlock:
    return ContentBlock(image=ImageBlock(data=data, media_type=media_type))


def image_of(attachment_id: str, media_type: str = "image/png") -> ContentBlock:
    return ContentBlock(image=ImageBlock(attachment_id=attachment_id, media_type=media_type))


def document(data: bytes, media_type: str) -> ContentBlock:
    return ContentBlock(document=DocumentBlock(data=data, media_type=media_type))


def upload(caller: Caller, *requests: pb.UploadAttachmentRequest) -> Any:
    return caller.chat.UploadAttachment(iter(requests), metadata=caller.metadata)


def download(caller: Caller, attachment_id: str) -> Any:
    request = pb.DownloadAttachmentRequest(attachment_id=attachment_id)
    return caller.chat.DownloadAttachment(request, metadata=caller.metadata)


async def send(caller: Caller, session_id: str, *content: ContentBlock) -> Message:
    """Sends content and returns the user's message as stored."""
    started = (await caller.send(session_id, content=content, max_output_tokens=10))[0].turn_started
    request = pb.GetMessageRequest(message_id=started.user_message_id)
    message: Message = (await caller.chat.GetMessage(request, metadata=caller.metadata)).message
    return message


async def delete_message(caller: Caller, message_id: str) -> None:
    await caller.chat.DeleteMessage(pb.DeleteMessageRequest(message_id=message_id), metadata=caller.metadata)


async def delete_session(caller: Caller, session_id: str) -> None:
    await caller.chat.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), metadata=caller.metadata)
