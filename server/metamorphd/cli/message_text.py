"""Messages as Markdown."""

import re
from collections.abc import Iterable, Iterator

from metamorph_client.chat.v1.message_pb2 import (
    ROLE_USER,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    ToolResultBlock,
)
from metamorph_client.chat.v1.session_pb2 import Session

from metamorphd.cli.backups import shown_time
from metamorphd.models.counted import counted


def heading(session: Session) -> str:
    """Returns the beginning of a transcript: the title, and what is known of the session."""
    facts = {
        "Session": session.session_id,
        "Created": f"{shown_time(session.create_time.seconds)} UTC, by {session.creator}",
        "Model": session.model,
        "Archived": "yes" if session.archived else "",
        "Metadata": ", ".join(f"{key}={value}" for key, value in sorted(session.metadata.items())),
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted(session.labels.items())),
    }
    lines = [f"- {name}: {' '.join(value.split())}" for name, value in facts.items() if value]
    title = " ".join(session.title.split()) or "A session without a title"
    prompt = f"\n\nSystem prompt:\n\n{_quoted(session.system_prompt)}" if session.system_prompt else ""
    return f"# {title}\n\n" + "\n".join(lines) + prompt


def author(message: Message) -> str:
    """Returns who wrote a message, and when."""
    name = message.creator if message.role == ROLE_USER else message.model
    return f"{' '.join(name.split())}, {shown_time(message.create_time.seconds)} UTC"


def body(message: Message) -> str:
    """Returns what a message says. Attachments are named, and what is not meant for readers is quoted."""
    if message.HasField("delete_time"):
        return f"*Deleted at {shown_time(message.delete_time.seconds)} UTC.*"
    parts = [part for block in message.content for part in _parts(block)]
    if message.partial:
        parts.append("*The reply was cut off here.*")
    return "\n\n".join(parts)


def _parts(block: ContentBlock) -> Iterator[str]:
    """Yields what one block says. Kinds that this version does not know are skipped."""
    match block.WhichOneof("block"):
        case "text":
            yield block.text.text
        case "image":
            yield _attachment(block.image)
        case "document":
            yield _attachment(block.document)
        case "tool_use":
            use = block.tool_use
            yield f"*Calls the tool {use.name} ({use.tool_use_id}):*\n\n{_fenced(use.input, 'json')}"
        case "tool_result":
            yield _result(block.tool_result)
        case "thinking" if block.thinking.text:
            yield _quoted(f"*Thinking:* {block.thinking.text}")
        case "compaction":
            yield _quoted(f"*The earlier messages, as summarized for the model:* {block.compaction.summary}")
        case "recalled_memories":
            yield _quoted(f"*Memories that were put to the message:* {block.recalled_memories.text}")


def _result(result: ToolResultBlock) -> str:
    failed = ", which failed" if result.is_error else ""
    return f"*Result of {result.tool_use_id}{failed}:*\n\n" + "\n\n".join(_result_parts(result))


def _result_parts(result: ToolResultBlock) -> Iterable[str]:
    for part in result.content:
        match part.WhichOneof("part"):
            case "text":
                yield _fenced(part.text.text)
            case "image":
                yield _attachment(part.image)
            case "document":
                yield _attachment(part.document)


def _attachment(block: ImageBlock | DocumentBlock) -> str:
    return f"*{block.attachment_id}: {block.media_type}, {counted(block.size_bytes, 'byte')}*"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))


def _fenced(text: str, language: str = "") -> str:
    """Returns a fenced block whose fence is longer than any in the text (CommonMark 0.31, section 4.5)."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
