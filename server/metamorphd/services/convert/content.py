"""Converts content to protobuf and back."""

from collections.abc import Awaitable, Callable, Iterable

from metamorph.chat.v1 import message_pb2

from metamorphd.models.attachment import Upload
from metamorphd.models.content import (
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

Check = Callable[[str, bytes], Awaitable[Upload]]
ProtoAttachment = message_pb2.ImageBlock | message_pb2.DocumentBlock
ProtoPart = message_pb2.ContentBlock | message_pb2.ToolResultPart


async def content_from_proto(
    blocks: Iterable[message_pb2.ContentBlock], *, check: Check
) -> tuple[Content, tuple[Upload, ...]]:
    """Returns a user's content, which has passed the rules of its proto, and the attachments included in it.

    Raises what `check` raises for one of them. Blocks that refer to a stored attachment have no size or hash yet.
    """
    uploads: list[Upload] = []
    content: list[Block] = []
    for block in blocks:
        if block.HasField("tool_result"):
            result = block.tool_result
            parts = [await _part_from_proto(part, check, uploads) for part in result.content]
            content.append(ToolResultBlock(result.tool_use_id, tuple(parts), result.is_error))
        else:
            content.append(await _part_from_proto(block, check, uploads))
    return tuple(content), tuple(uploads)


def text_size(blocks: Iterable[message_pb2.ContentBlock]) -> int:
    """Returns the size of the text of a user's content, including that of tool results, in bytes of UTF-8."""
    return sum(
        len(part.text.text.encode())
        for block in blocks
        for part in (block, *(block.tool_result.content if block.HasField("tool_result") else ()))
    )


def content_to_proto(content: Content) -> list[message_pb2.ContentBlock]:
    """Returns a message's content. Images and documents are described, without their bytes."""
    return [_block_to_proto(block) for block in content]


async def _part_from_proto(
    part: ProtoPart, check: Check, uploads: list[Upload]
) -> TextBlock | ImageBlock | DocumentBlock:
    if part.HasField("text"):
        return TextBlock(part.text.text)
    block, kind = (part.image, ImageBlock) if part.HasField("image") else (part.document, DocumentBlock)
    if not block.HasField("data"):
        return kind(block.attachment_id, block.media_type, 0, "")
    upload = await check(block.media_type, block.data)
    uploads.append(upload)
    return kind(upload.attachment_id, upload.media_type, len(upload.data), upload.sha256)


def _block_to_proto(block: Block) -> message_pb2.ContentBlock:
    proto = message_pb2.ContentBlock()
    match block:
        case TextBlock():
            proto.text.text = block.text
        case ImageBlock():
            _describe(proto.image, block)
        case DocumentBlock():
            _describe(proto.document, block)
        case ToolUseBlock():
            proto.tool_use.tool_use_id = block.tool_use_id
            proto.tool_use.name = block.name
            proto.tool_use.input = block.input
        case ToolResultBlock():
            proto.tool_result.tool_use_id = block.tool_use_id
            proto.tool_result.is_error = block.is_error
            proto.tool_result.content.extend(map(_part_to_proto, block.content))
        case ThinkingBlock():
            proto.thinking.text = block.text
            proto.thinking.signature = block.signature.encode()
            proto.thinking.redacted = block.redacted.encode()
        case CompactionBlock():
            proto.compaction.summary = block.summary
    return proto


def _part_to_proto(part: TextBlock | ImageBlock | DocumentBlock) -> message_pb2.ToolResultPart:
    proto = message_pb2.ToolResultPart()
    match part:
        case TextBlock():
            proto.text.text = part.text
        case ImageBlock():
            _describe(proto.image, part)
        case DocumentBlock():
            _describe(proto.document, part)
    return proto


def _describe(proto: ProtoAttachment, block: ImageBlock | DocumentBlock) -> None:
    proto.attachment_id = block.attachment_id
    proto.media_type = block.media_type
    proto.size_bytes = block.size
    proto.sha256 = block.sha256
