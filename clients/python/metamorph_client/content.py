"""The content of messages."""

from collections.abc import Iterable

from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock

Content = str | Iterable[ContentBlock]


def text(content: str) -> ContentBlock:
    """Returns a block of text."""
    return ContentBlock(text=TextBlock(text=content))


def blocks(content: Content) -> list[ContentBlock]:
    """Returns the blocks of a message, which are one if it is text."""
    return [text(content)] if isinstance(content, str) else list(content)
