"""Content to protobuf and back."""

from collections.abc import Iterable

from metamorph.chat.v1 import message_pb2

from metamorphd.models import (
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

ProtoAttachment = message_pb2.ImageBlock | message_pb2.DocumentBlock


def content_from_proto(blocks: Iterable[message_pb2.ContentBlock]) -> Content:
    """A user's content that has passed the rules of its proto."""
    return tuple(map(_block_from_proto, blocks))


def content_to_proto(content: Content) -> list[message_pb2.ContentBlock]:
    """All of a message's content; of images and documents what they are, never their bytes."""
    return [_block_to_proto(block) for block in content]


def _block_from_proto(block: message_pb2.ContentBlock) -> Block:
    if block.HasField("tool_result"):
        result = block.tool_result
        parts = tuple(_part_from_proto(part) for part in result.content)
        return ToolResultBlock(result.tool_use_id, parts, result.is_error)
    return _part_from_proto(block)


def _part_from_proto(
    part: message_pb2.ContentBlock | message_pb2.ToolResultPart,
) -> TextBlock | ImageBlock | DocumentBlock:
    if part.HasField("image"):
        return ImageBlock(part.image.attachment_id, part.image.media_type, 0, "")
    if part.HasField("document"):
        return DocumentBlock(part.document.attachment_id, part.document.media_type, 0, "")
    return TextBlock(part.text.text)


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
