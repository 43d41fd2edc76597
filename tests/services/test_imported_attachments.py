"""Attachments that an import brings: nothing that its file says about one is believed over the attachment."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from metamorphd.models.attachment import Upload

from tests.support.caller import Caller
from tests.support.exports import Record, comparable, exported, import_, of_kind, whole
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.media import pdf, png
from tests.support.refusal import refused
from tests.support.serving import Serving, replies_from
from tests.support.turns import regenerate
from tests.support.usage import limit

TIME = 1_700_000_000_000_000
TEXT = b"words and words\n" * 20_000
GONE = "[An attachment that was here is not available any more.]"


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api)


def of(upload: Upload, kind: str = "document", **fields: Any) -> Record:
    """Returns a block that names an attachment."""
    known = {"longest_side": 0} if kind == "image" else {"pages": 0}
    named = {"attachment_id": upload.attachment_id, "media_type": upload.media_type}
    return {"type": kind, **named, "size": len(upload.data), "sha256": upload.sha256, **known, **fields}


def said(number: int, *content: Record) -> list[Record]:
    """Returns a session with a message of the user."""
    session = {"session_id": f"ses_{number}", "title": "", "model": "", "system_prompt": "", "metadata": {}}
    rest = {"labels": {}, "archived": False, "recall_tokens": 0, "memory_tool": False, "creator": "alice"}
    message = {"message_id": f"msg_{number}", "session_id": f"ses_{number}", "parent_message_id": None, "role": "USER"}
    marks = {"partial": False, "refused": False, "rejected": False}
    own = {"content": list(content), "turn_id": "", "creator": "alice", "model": "", **marks}
    return [
        {"kind": "session", **session, **rest, "create_time": TIME, "update_time": TIME},
        {"kind": "message", **message, **own, "create_time": TIME},
    ]


def with_bytes(upload: Upload, **fields: Any) -> list[Record]:
    """Returns an attachment of less than a mebibyte, and its bytes."""
    known = {"longest_side": 0, "pages": 0, "rejected": False, **fields}
    own = {"attachment_id": upload.attachment_id, "media_type": upload.media_type, "sha256": upload.sha256}
    return [
        {"kind": "attachment", **own, "size": len(upload.data), "create_time": TIME, **known},
        {
            "kind": "attachment_chunk",
            "attachment_id": upload.attachment_id,
            "number": 0,
            "data": b64encode(upload.data).decode(),
        },
    ]


def file(*records: Sequence[Record]) -> bytes:
    header = {"kind": "header", "format": "metamorph-vault", "version": 1}
    return whole([header, *(record for some in records for record in some)])


DOCUMENT, IMAGE = Upload.of("text/plain", TEXT), Upload.of("image/png", png())
RESULT = {"type": "tool_result", "tool_use_id": "t", "is_error": False}
LIES: dict[str, Record] = {
    "a smaller size": of(DOCUMENT, size=1),
    "a larger size": of(DOCUMENT, size=len(TEXT) + 1),
    "another hash": of(DOCUMENT, sha256=hashlib.sha256(b"other").hexdigest()),
    "another type": of(DOCUMENT, media_type="application/pdf"),
    "an image that is a document": of(DOCUMENT, "image"),
    "a document that is an image": of(IMAGE),
    "a smaller size in a result": {**RESULT, "content": [of(IMAGE, "image"), of(DOCUMENT, size=1)]},
}


@pytest.mark.parametrize("name", LIES)
async def test_a_block_that_differs_from_its_attachment_is_refused_by_its_line(alice: Caller, name: str) -> None:
    honest = said(1, of(DOCUMENT), of(IMAGE, "image"))
    attachments = with_bytes(DOCUMENT), with_bytes(IMAGE)
    refusal = await refused(import_(alice, file(honest, said(2, LIES[name]), *attachments)))
    assert refusal.reason == "IMPORT_INVALID"
    assert (refusal.info.metadata["line"], refusal.info.metadata["fault"]) == ("5", "attachment")
    await import_(alice, file(honest, *attachments))
    # Also if the vault has the attachment, and the file has not.
    refusal = await refused(import_(alice, file(said(2, LIES[name]))))
    assert (refusal.info.metadata["line"], refusal.info.metadata["fault"]) == ("3", "attachment")


async def test_pages_and_sides_of_blocks_are_those_of_their_attachments(alice: Caller) -> None:
    paper = Upload.of("application/pdf", pdf(pages=3), pages=3)
    blocks = of(paper, pages=0), of(paper, pages=9), of(IMAGE, "image", longest_side=9)
    await import_(alice, file(said(1, *blocks), with_bytes(paper, pages=3), with_bytes(IMAGE, longest_side=1)))
    data = await exported(alice)
    (message,) = of_kind(data, "message")
    assert message["content"] == [of(paper, pages=3), of(paper, pages=3), of(IMAGE, "image", longest_side=1)]


async def test_an_export_whose_attachment_is_gone_is_imported(alice: Caller, running: Serving) -> None:
    await import_(alice, file(said(1, of(DOCUMENT))))
    data = await exported(alice)
    assert of_kind(data, "attachment") == []
    bob = running.caller(vault="other", user="bob")
    await import_(bob, data)
    assert comparable(await exported(bob)) == comparable(data)


@pytest.mark.parametrize("size", [len(TEXT), 1])
async def test_what_is_uploaded_after_the_import_is_sent_if_it_is_as_large_as_blocks_say(
    alice: Caller, api: FakeMessagesApi, size: int
) -> None:
    await import_(alice, file(said(1, of(DOCUMENT, size=size), of(DOCUMENT))))
    await alice.upload(TEXT, "text/plain")
    await regenerate(alice, "msg_1").rest()
    blocks = api.requests[-1].body["messages"][0]["content"]
    assert [block.get("text", block["type"]) for block in blocks] == [
        "document" if size == len(TEXT) else GONE,
        "document",
    ]


async def test_replies_to_what_was_imported_reserve_of_the_budget(
    alice: Caller, running: Serving, api: FakeMessagesApi
) -> None:
    await limit(running.caller(operator=True, vault="ops"), "acme", tokens_per_day=len(TEXT) * 2)
    sessions = [said(number, of(DOCUMENT)) for number in range(4)]
    await import_(alice, file(*sessions, with_bytes(DOCUMENT)))
    api.default = Reply(("word",), delay=0.3)

    async def ran(number: int) -> str:
        try:
            await regenerate(alice, f"msg_{number}", max_output_tokens=100).rest()
        except Exception as exc:
            return type(exc).__name__
        return "ran"

    assert sorted(await asyncio.gather(*map(ran, range(4)))).count("ran") == 1


@pytest.mark.parametrize(
    ("media_type", "data"),
    [("text/plain", b"\xff\xfe"), ("text/plain", b"a\0b"), ("text/plain", TEXT + b"\xc3"), ("image/png", TEXT)],
)
async def test_bytes_that_are_not_of_their_media_type_are_refused(alice: Caller, media_type: str, data: bytes) -> None:
    upload = Upload.of(media_type, data)
    refusal = await refused(import_(alice, file(said(1, of(DOCUMENT)), with_bytes(DOCUMENT), with_bytes(upload))))
    assert (refusal.info.metadata["line"], refusal.info.metadata["fault"]) == ("7", "attachment")
    assert refusal.message.endswith("are not of its media type (attachment)")
