"""Images and documents in the messages of an import, which name attachments.

What a block says about its attachment is what turns reserve of budgets, and what is known of it in a prompt. So it is
compared with the attachment, which was verified with its bytes, or is the vault's own.
"""

from collections.abc import Mapping, Sequence

from metamorphd.models.attachment import Attachment
from metamorphd.models.imports import Line, Refused
from metamorphd.store.staged_rows import attached_in
from metamorphd.transfers.reading import with_pauses


async def named_in(lines: Sequence[Line]) -> set[str]:
    """Returns the IDs of the attachments that messages name."""
    named = set[str]()
    async for line in with_pauses(lines):
        if line.kind == "message":
            named.update(block["attachment_id"] for block in attached_in(line.record))
    return named


def describe(line: Line, attachments: Mapping[str, Attachment]) -> None:
    """Puts into the blocks of a message what is known of their attachments. Others stay as they are.

    Raises Refused if a block has another size, hash or media type than its attachment, which all follow from its bytes,
    or if an image is a document or the other way round.
    """
    for block in attached_in(line.record):
        attachment = attachments.get(block["attachment_id"])
        if (block["type"] == "image") != block["media_type"].startswith("image/"):
            raise _differs(line, "media_type")
        if attachment is None:
            continue
        for field in ("media_type", "size", "sha256"):
            if block[field] != getattr(attachment, field):
                raise _differs(line, field)
        field = "longest_side" if block["type"] == "image" else "pages"
        block[field] = getattr(attachment, field)


def _differs(line: Line, field: str) -> Refused:
    return Refused(line.number, "attachment", f"the {field} of an image or document is not that of the attachment")
