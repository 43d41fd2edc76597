"""Images and documents that the provider rejects: before they are sent, if that is known, else once."""

from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.chat.v1.message_pb2 import (
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    ToolResultBlock,
    ToolResultPart,
)
from metamorphd.services.chat.uploads import IMAGE_BYTES

from tests.support.caller import Caller, send_request, text_block
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Refusal, Reply, tool_use
from tests.support.fakes.rules import broken
from tests.support.media import FILES, gif, jpeg, pdf, png, webp
from tests.support.refusal import refused
from tests.support.tools import ASKS, WEATHER
from tests.support.turns import regenerate

AT = "messages.2.content.1"


def picture(data: bytes, media_type: str = "image/png") -> ContentBlock:
    return ContentBlock(image=ImageBlock(media_type=media_type, data=data))


def paper(data: bytes) -> ContentBlock:
    return ContentBlock(document=DocumentBlock(media_type="application/pdf", data=data))


async def named(alice: Caller, data: bytes) -> ContentBlock:
    """Uploads a PDF, and returns a block that names it."""
    stored = await alice.upload(data, "application/pdf")
    return ContentBlock(document=DocumentBlock(media_type="application/pdf", attachment_id=stored.attachment_id))


def rejection(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message=message)


def sent(api: FakeMessagesApi) -> list[str]:
    return [block["type"] for message in api.requests[-1].body["messages"] for block in message["content"]]


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (f"{AT}.image.source.base64.data: At least one of the image dimensions exceed max allowed size", ["document"]),
        (f"{AT}.image: image exceeds 10 MB maximum: 23 bytes > 10485760 bytes", ["document"]),
        ("messages.2.content.2.pdf.source.base64.data: The PDF specified is password protected.", ["image"]),
        ("Could not process image", []),
        ("messages.0.content.1.image: not what was sent", ["image", "document"]),
    ],
)
async def test_what_the_provider_rejected_is_named_and_not_sent_again(
    alice: Caller, api: FakeMessagesApi, message: str, left: list[str]
) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "Hi")
    content = [text_block("Look"), picture(FILES["image/png"]), paper(FILES["application/pdf"])]
    api.script.append(rejection(message))
    finished = (await alice.send(session.session_id, content=content))[-1].turn_finished
    assert finished.error.reason == "UPSTREAM_REJECTED"
    stored = (await alice.messages(session.session_id))[2].content
    ids = {"image": stored[1].image.attachment_id, "document": stored[2].document.attachment_id}
    blamed = [attachment_id for kind, attachment_id in ids.items() if kind not in left]
    assert finished.error.metadata.get("attachment_ids", "") == ",".join(blamed)
    await alice.send(session.session_id)
    assert [kind for kind in sent(api) if kind != "text"] == left


async def test_what_was_rejected_in_a_result_is_found(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(ASKS)
    await alice.send(session.session_id, tools=[WEATHER])
    parts = [ToolResultPart(image=ImageBlock(media_type="image/png", data=png(1, side))) for side in (1, 2)]
    answer = ContentBlock(tool_result=ToolResultBlock(tool_use_id="toolu_1", content=parts))
    api.script.append(rejection("messages.2.content.0.tool_result.content.1.image.source.base64: too large"))
    await alice.send(session.session_id, content=[answer])
    await alice.send(session.session_id)
    (result,) = [block for block in api.requests[-1].body["messages"][2]["content"] if block["type"] == "tool_result"]
    assert [part["type"] for part in result["content"]] == ["image", "text"]


async def test_what_was_rejected_is_tried_again_if_it_is_uploaded_again(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(rejection("messages.0.content.0.image: no"))
    await alice.send(session.session_id, content=[picture(FILES["image/png"])])
    await alice.send(session.session_id)
    assert "image" not in sent(api)
    await alice.send(session.session_id, content=[picture(FILES["image/png"])])
    assert sent(api).count("image") == 2


@pytest.mark.parametrize(
    ("kind", "data"),
    [(kind, make(*sides)) for kind, make in (("png", png), ("jpeg", jpeg), ("gif", gif), ("webp", webp))
     for sides in ((8001, 1), (1, 8001))]
    + [(kind, make(0, 1)) for kind, make in (("png", png), ("jpeg", jpeg), ("gif", gif))]
    + [(kind, make(64, 64)[:-1]) for kind, make in (("png", png), ("jpeg", jpeg), ("gif", gif), ("webp", webp))],
)  # fmt: skip
async def test_an_image_that_the_provider_would_reject_is_refused(
    alice: Caller, api: FakeMessagesApi, kind: str, data: bytes
) -> None:
    session = await alice.create_session()
    refusal = await refused(alice.send(session.session_id, content=[text_block("a"), picture(data, f"image/{kind}")]))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == ["content[1].image.data"]
    refusal = await refused(alice.upload(data, f"image/{kind}"))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["chunk"])
    assert (await alice.messages(session.session_id), api.requests) == ([], [])


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("text/plain", b" \t\n\f\r" * 100_000),
        ("application/pdf", pdf()[:-20]),
        ("application/pdf", pdf(trailer=b"/Encrypt 4 0 R")),
        ("application/pdf", pdf(pages=601)),
    ],
    ids=["blank", "truncated", "encrypted", "long"],
)
async def test_a_document_that_the_provider_would_reject_is_refused(
    alice: Caller, api: FakeMessagesApi, media_type: str, data: bytes
) -> None:
    session = await alice.create_session()
    document = ContentBlock(document=DocumentBlock(media_type=media_type, data=data))
    refusal = await refused(alice.send(session.session_id, content=[text_block("a"), document]))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == ["content[1].document.data"]
    refusal = await refused(alice.upload(data, media_type))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["chunk"])
    assert (await alice.messages(session.session_id), api.requests) == ([], [])


async def test_a_document_of_the_most_pages_is_accepted(alice: Caller) -> None:
    await alice.upload(pdf(pages=600), "application/pdf")


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("model", "most"), [("claude-sonnet-4-5", 100), ("claude-sonnet-5-5", 600)])
async def test_documents_of_more_pages_than_the_model_reads_are_refused_together(
    alice: Caller, api: FakeMessagesApi, model: str, most: int, stored: bool
) -> None:
    session = await alice.create_session(title="Set", model=model)

    async def paper_of(pages: int) -> ContentBlock:
        return await named(alice, pdf(pages=pages)) if stored else paper(pdf(pages=pages))

    half, other = await paper_of(most // 2), await paper_of(most // 2 + 1)
    refusal = await refused(alice.send(session.session_id, content=[half, other]))
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", ["content"])
    request = pb.CountTokensRequest(message=send_request(session.session_id, content=[half, other]))
    assert (await refused(alice.chat.CountTokens(request, metadata=alice.metadata))).fields == ["message.content"]
    assert (await alice.messages(session.session_id), api.requests) == ([], [])
    # One that is there twice is sent twice.
    await alice.send(session.session_id, content=[half, half])
    assert sent(api) == ["document", "document"]
    refusal = await refused(alice.send(session.session_id, content=[half, half, await paper_of(1)]))
    assert refusal.fields == ["content"]


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_documents_of_more_pages_than_the_model_reads_are_refused_in_results(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(title="Set")
    api.script.append(ASKS)
    await alice.send(session.session_id, tools=[WEATHER])
    parts = [ToolResultPart(document=paper(pdf(pages=pages)).document) for pages in (60, 41)]
    answer = ContentBlock(tool_result=ToolResultBlock(tool_use_id="toolu_1", content=parts))
    refusal = await refused(alice.send(session.session_id, content=[answer], model="claude-sonnet-4-5"))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content"])
    await alice.send(session.session_id, content=[answer])
    assert len(api.requests) == 2


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_older_documents_are_left_out_of_a_prompt_of_too_many_pages(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    events = await alice.send(session.session_id, content=[paper(pdf(pages=101)), picture(FILES["image/png"])])
    await alice.send(session.session_id, content=[await named(alice, pdf(pages=499))])
    assert sent(api) == ["document", "image", "text", "document"]
    await alice.send(session.session_id, content=[paper(pdf())])
    assert sent(api) == ["text", "image", "text", "document", "text", "document"]
    # Of another model's conversation it reads what it can.
    await alice.send(session.session_id, model="claude-sonnet-4-5")
    assert sent(api) == ["text", "image", "text", "text", "text", "document", "text", "text"]
    asked = events[0].turn_started.user_message_id
    refusal = await refused(regenerate(alice, asked, model="claude-sonnet-4-5").rest())
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content"])


async def test_a_document_that_does_not_state_its_pages_is_named_when_it_is_rejected(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(title="Set")
    compressed = pdf(pages=601).replace(b"/Count 601", b"/Count 9 0 R")
    api.default = lambda received: (
        Refusal(400, "invalid_request_error", message=fault)
        if (fault := broken(received.body, received.headers))
        else Reply(("Well.",))
    )
    finished = (await alice.send(session.session_id, content=[text_block("Read"), paper(compressed)]))[-1].turn_finished
    (message,) = await alice.messages(session.session_id)
    named = message.content[1].document.attachment_id
    assert (finished.error.reason, finished.error.metadata["attachment_ids"]) == ("UPSTREAM_REJECTED", named)
    await alice.send(session.session_id)
    assert sent(api) == ["text"] * 3


@pytest.mark.parametrize("make", [png, jpeg, gif, webp])
async def test_an_image_of_the_largest_size_is_accepted(alice: Caller, make: Any) -> None:
    kind = make.__name__
    await alice.upload(make(8000, 8000), f"image/{kind}")
    await alice.upload(FILES["image/png"] + bytes(IMAGE_BYTES - len(FILES["image/png"])))
    refusal = await refused(alice.upload(FILES["image/png"] + bytes(IMAGE_BYTES)))
    assert (refusal.reason, refusal.info.metadata["limit_bytes"]) == ("ATTACHMENT_TOO_LARGE", str(IMAGE_BYTES))


async def test_an_image_in_a_result_that_is_an_error_is_refused(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(ASKS)
    await alice.send(session.session_id, tools=[WEATHER])
    part = ToolResultPart(image=ImageBlock(media_type="image/png", data=FILES["image/png"]))
    answer = ContentBlock(tool_result=ToolResultBlock(tool_use_id="toolu_1", content=[part], is_error=True))
    refusal = await refused(alice.send(session.session_id, content=[answer]))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content[0].tool_result.content"])


async def test_what_was_rejected_cannot_be_named_until_it_is_uploaded_again(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    stored = (await alice.upload(FILES["image/png"])).attachment_id
    named = [text_block("Look"), ContentBlock(image=ImageBlock(media_type="image/png", attachment_id=stored))]
    api.script.append(rejection("messages.0.content.1.image: no"))
    await alice.send(session.session_id, content=named)
    refusal = await refused(alice.send(session.session_id, content=named))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content[1]"])
    assert len(await alice.messages(session.session_id)) == 1
    await alice.upload(FILES["image/png"])
    await alice.send(session.session_id, content=named)
    assert sent(api).count("image") == 2


async def test_a_message_with_more_than_the_model_reads_at_once_is_refused(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    api.script.append(
        Reply((tool_use("toolu_1", "weather", "{}"), tool_use("toolu_2", "weather", "{}")), stop_reason="tool_use")
    )
    await alice.send(session.session_id, tools=[WEATHER])
    stored = (await alice.upload(FILES["image/png"])).attachment_id
    many = [ToolResultPart(image=ImageBlock(media_type="image/png", attachment_id=stored))] * 64
    answers = [
        ContentBlock(tool_result=ToolResultBlock(tool_use_id=f"toolu_{number}", content=many)) for number in (1, 2)
    ]
    # 128 images, of which claude-sonnet-4-5 reads 100.
    refusal = await refused(alice.send(session.session_id, content=answers, model="claude-sonnet-4-5"))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content"])
    large = (await alice.upload(png(2001, 1))).attachment_id
    answers[1].tool_result.content[7].image.attachment_id = large
    refusal = await refused(alice.send(session.session_id, content=answers))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content[1]"])
    papers = [
        (await alice.upload(FILES["application/pdf"] + bytes(12 * 1024 * 1024) + bytes([number]), "application/pdf"))
        for number in range(2)
    ]
    content = [
        ContentBlock(document=DocumentBlock(media_type="application/pdf", attachment_id=each.attachment_id))
        for each in papers
    ]
    refusal = await refused(alice.send(session.session_id, content=content, parent_message_id=""))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["content"])
    assert (len(await alice.messages(session.session_id)), len(api.requests)) == (2, 1)


async def test_a_large_image_is_sent_though_many_precede_it(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    small = [picture(png(2000, side)) for side in range(1, 26)]
    await alice.send(session.session_id, content=small)
    assert sent(api) == ["image"] * 25
    for content in ([picture(png(4000, 3000))], [text_block("And?")]):
        await alice.send(session.session_id, content=content)
        assert sent(api)[:27] == ["text"] * 6 + ["image"] * 19 + ["text", "image"]


async def test_large_images_are_left_out_of_a_prompt_with_many(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    stored = (await alice.upload(png(2001, 1))).attachment_id
    large = message_pb2.ContentBlock(image=ImageBlock(media_type="image/png", attachment_id=stored))
    small = [picture(png(2000, side)) for side in range(1, 21)]
    await alice.send(session.session_id, content=[large, picture(png(1, 2001)), *small[:18]])
    assert sent(api) == ["image"] * 20
    await alice.send(session.session_id, content=small[18:])
    assert sent(api) == ["text"] * 2 + ["image"] * 18 + ["text"] + ["image"] * 2
