"""Converts content to protobuf and back."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from metamorph_client.chat.v1 import message_pb2

from metamorphd.errors import FieldViolation, RequestInvalid
from metamorphd.models.attachment import Upload
from metamorphd.models.content import (
    AttachmentBlock,
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    Part,
    RecalledBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    described,
    map_attachments,
)

ProtoAttachment = message_pb2.ImageBlock | message_pb2.DocumentBlock
ProtoPart = message_pb2.ContentBlock | message_pb2.ToolResultPart
# A block, its path in the request, and its bytes.
Included = tuple[ProtoAttachment, str, memoryview]


def content_from_proto(
    blocks: Iterable[message_pb2.ContentBlock], carried: Sequence[memoryview]
) -> tuple[Content, tuple[Included, ...]]:
    """Returns a user's content, which has passed the rules of its proto, and the attachments included as bytes.

    In such a block `data` is an index of `carried`, a big-endian number, and the block has no id until `with_uploads`
    sets it. Blocks that refer to a stored attachment have no size or hash yet. Raises RequestInvalid for memories.
    """
    included: list[Included] = []
    content: list[Block] = []
    for place, block in enumerate(blocks):
        path = f"content[{place}]"
        if block.HasField("recalled_memories"):
            # Not in the rules of the proto, which may not become tighter.
            raise RequestInvalid(violations=[FieldViolation(path, "has memories, which only the server puts there")])
        if block.HasField("tool_result"):
            result = block.tool_result
            parts = tuple(
                [
                    _part_from_proto(part, f"{path}.tool_result.content[{inner}]", carried, included)
                    for inner, part in enumerate(result.content)
                ]
            )
            content.append(ToolResultBlock(result.tool_use_id, parts, result.is_error))
        else:
            content.append(_part_from_proto(block, path, carried, included))
    return tuple(content), tuple(included)


def with_uploads(content: Content, uploads: Iterable[Upload]) -> Content:
    """Returns content, with the blocks of attachments that were included as bytes completed from `uploads`."""
    remaining = iter(uploads)

    def completed(block: AttachmentBlock) -> AttachmentBlock:
        if block.attachment_id:
            return block
        upload = next(remaining)
        named = replace(block, attachment_id=upload.attachment_id)
        return described(
            named,
            size=len(upload.data),
            sha256=upload.sha256,
            longest_side=upload.longest_side,
            pages=upload.pages,
        )

    return map_attachments(content, completed)


def content_to_proto(content: Content) -> list[message_pb2.ContentBlock]:
    """Returns a message's content. Images and documents are described, without their bytes."""
    return [_block_to_proto(block) for block in content]


def _part_from_proto(part: ProtoPart, path: str, carried: Sequence[memoryview], included: list[Included]) -> Part:
    if part.HasField("text"):
        return TextBlock(part.text.text)
    block, kind = (part.image, ImageBlock) if part.HasField("image") else (part.document, DocumentBlock)
    if block.HasField("data"):
        name = "image" if kind is ImageBlock else "document"
        included.append((block, f"{path}.{name}.data", carried[int.from_bytes(block.data)]))
    return kind(block.attachment_id, block.media_type, 0, "")


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
        case RecalledBlock():
            proto.recalled_memories.text = block.text
            proto.recalled_memories.memory_ids.extend(block.memory_ids)
    return proto


def _part_to_proto(part: Part) -> message_pb2.ToolResultPart:
    proto = message_pb2.ToolResultPart()
    match part:
        case TextBlock():
            proto.text.text = part.text
        case ImageBlock():
            _describe(proto.image, part)
        case DocumentBlock():
            _describe(proto.document, part)
    return proto


def _describe(proto: ProtoAttachment, block: AttachmentBlock) -> None:
    proto.attachment_id = block.attachment_id
    proto.media_type = block.media_type
    proto.size_bytes = block.size
    proto.sha256 = block.sha256
