"""The calls that cost most for what they send, each at its limits."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import ROLE_ASSISTANT, ContentBlock, DocumentBlock

from harness.abuse.rpcs import EARLY, LOST_STATUS
from tests.support.caller import Caller, calling, send_request, upload_requests
from tests.support.generated.corpus import COMMON_WORDS, word
from tests.support.generated.layout import VaultPlan
from tests.support.media import FILES

# One after the other, so often: the machine is the caller's too, and its work must not be mistaken for the server's.
PAUSE_SECONDS = 0.05
RARE_PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0
LARGEST_REQUEST = 32 * 1024 * 1024
DOCUMENT_BYTES = 20_000_000
IMAGE_SENDS = 8
# A little more than 2**23, as the parser doubles a list that is full, to 16 bytes for each path: a quarter of a GiB for
# 17 MB, which leave room for one of the documents among what a vault may have in flight.
MASK_PATHS = 8_500_000
LONG_MESSAGE_WORDS = 12_000
LARGE_MESSAGES, LARGE_MESSAGE_BYTES = 12, 1_000_000
SEARCHERS = 4
SERVICE = "/metamorph.chat.v1.ChatService/"
# An empty block of `content`, and an empty path of `update_mask`, as they are sent.
EMPTY_BLOCK, EMPTY_PATH = b"\x1a\x00", b"\x0a\x00"


@dataclass
class Vault:
    """The vault that does it: what it holds, and how its calls ended, by kind."""

    plan: VaultPlan
    target: str
    token: str
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        deep, *erasable = [
            session.session_id for session in self.plan.sessions() if session.size >= self.plan.deep_messages
        ]
        self.deep = deep
        self.erasable = erasable


Attack = Callable[[Vault, Caller], Coroutine[Any, Any, None]]
ATTACKS: dict[str, Attack] = {}


def _attack(make: Attack) -> Attack:
    ATTACKS[make.__name__.removeprefix("_").replace("_", " ")] = make
    return make


async def attack(vault: Vault) -> None:
    """Makes all of these calls at the same time, each kind on its own connection, until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, make in ATTACKS.items():
            for _ in range(SEARCHERS if make is _search_common_words else 1):
                group.create_task(_repeat(vault, name, make))


async def _repeat(vault: Vault, name: str, make: Attack) -> None:
    async with calling(vault.target, vault.token) as caller:
        await repeat(vault.ended, name, lambda: make(vault, caller))


async def repeat(ended: Counter[tuple[str, str]], name: str, make: Callable[[], Awaitable[None]]) -> None:
    """Makes a call again and again until it is cancelled, and counts how it ended."""
    while True:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await make()
            ended[name, "OK"] += 1
        except grpc.aio.AioRpcError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The call was cancelled with this task.
                raise asyncio.CancelledError from None
            ended[name, EARLY if error.details() == LOST_STATUS else error.code().name] += 1
        except TimeoutError:
            ended[name, "TIMEOUT"] += 1
        await asyncio.sleep(PAUSE_SECONDS)


@_attack
async def _delete_session_of_20000(vault: Vault, caller: Caller) -> None:
    await asyncio.sleep(RARE_PAUSE_SECONDS)
    if vault.erasable:
        await caller.chat.DeleteSession(
            pb.DeleteSessionRequest(session_id=vault.erasable.pop()), metadata=caller.metadata
        )
    else:
        await asyncio.sleep(TIMEOUT_SECONDS - 5)


@_attack
async def _delete_long_message(vault: Vault, caller: Caller) -> None:
    session_id = (await caller.create_session()).session_id
    text = " ".join(word(rank) for rank in range(LONG_MESSAGE_WORDS))
    events = await caller.send(session_id, text)
    request = pb.DeleteMessageRequest(message_id=events[0].turn_started.user_message_id)
    await caller.chat.DeleteMessage(request, metadata=caller.metadata)


@_attack
async def _list_messages(vault: Vault, caller: Caller) -> None:
    for order in (pb.MESSAGE_ORDER_OLDEST_FIRST, pb.MESSAGE_ORDER_NEWEST_FIRST):
        request = pb.ListMessagesRequest(session_id=vault.deep, page_size=1000, order_by=order)
        await caller.chat.ListMessages(request, metadata=caller.metadata)


@_attack
async def _send_to_20000(vault: Vault, caller: Caller) -> None:
    await caller.send(vault.deep, "And what then?")


@_attack
async def _count_tokens(vault: Vault, caller: Caller) -> None:
    newest = pb.MESSAGE_ORDER_NEWEST_FIRST
    replies = [
        message.message_id
        for message in await caller.messages(vault.deep, page_size=10, order_by=newest)
        if message.role == ROLE_ASSISTANT
    ]
    # The current leaf is busy with `_send_to_20000`.
    message = send_request(vault.deep, "How many are they?", parent_message_id=replies[0])
    request = pb.CountTokensRequest(message=message)
    await caller.chat.CountTokens(request, metadata=caller.metadata)


@_attack
async def _count_tokens_of_large_branch(vault: Vault, caller: Caller) -> None:
    session_id = (await caller.create_session()).session_id
    for _ in range(LARGE_MESSAGES):
        await caller.send(session_id, "large " * (LARGE_MESSAGE_BYTES // 6), max_output_tokens=1)
        vault.ended["count tokens of large branch", "SENT"] += 1
    request = pb.CountTokensRequest(message=send_request(session_id, "And now?"))
    while True:
        await caller.chat.CountTokens(request, metadata=caller.metadata)
        vault.ended["count tokens of large branch", "OK"] += 1
        await asyncio.sleep(PAUSE_SECONDS)


@_attack
async def _search_common_words(vault: Vault, caller: Caller) -> None:
    await caller.chat.SearchMessages(
        pb.SearchMessagesRequest(query=" ".join(COMMON_WORDS), page_size=100), metadata=caller.metadata
    )


async def _raw(caller: Caller, method: str, request: bytes, **options: Any) -> None:
    call: Any = caller.channel.unary_unary if method == "UpdateSession" else caller.channel.unary_stream
    ended = call(SERVICE + method)(request, metadata=caller.metadata, **options)
    if method == "UpdateSession":
        await ended
    else:
        async for _ in ended:
            pass


@_attack
async def _empty_blocks(vault: Vault, caller: Caller) -> None:
    await asyncio.sleep(RARE_PAUSE_SECONDS)
    request = pb.SendMessageRequest(session_id=vault.deep).SerializeToString()
    request += EMPTY_BLOCK * ((LARGEST_REQUEST - len(request)) // len(EMPTY_BLOCK))
    await _raw(caller, "SendMessage", request)


@_attack
async def _empty_blocks_compressed(vault: Vault, caller: Caller) -> None:
    await asyncio.sleep(RARE_PAUSE_SECONDS)
    request = pb.SendMessageRequest(session_id=vault.deep).SerializeToString()
    request += EMPTY_BLOCK * ((LARGEST_REQUEST - len(request)) // len(EMPTY_BLOCK))
    await _raw(caller, "SendMessage", request, compression=grpc.Compression.Gzip)


@_attack
async def _mask_of_many_paths(vault: Vault, caller: Caller) -> None:
    await asyncio.sleep(RARE_PAUSE_SECONDS)
    request = pb.UpdateSessionRequest()
    request.session.session_id = vault.deep
    await _raw(caller, "UpdateSession", request.SerializeToString() + _field(2, EMPTY_PATH * MASK_PATHS))


def _field(number: int, data: bytes) -> bytes:
    """Returns a length-delimited field as it is sent."""
    length, encoded = len(data), bytearray([number << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length]) + data


@_attack
async def _send_documents(vault: Vault, caller: Caller) -> None:
    block = ContentBlock(document=DocumentBlock(media_type="application/pdf", data=_document(DOCUMENT_BYTES)))

    async def send() -> None:
        session_id = (await caller.create_session()).session_id
        call = caller.chat.SendMessage(send_request(session_id, content=[block]), metadata=caller.metadata)
        try:
            await call.read()
        finally:
            # A call that is not read to its end keeps its place on the connection, which then stalls at 100 of them.
            call.cancel()

    ended = await asyncio.gather(*(send() for _ in range(IMAGE_SENDS)), return_exceptions=True)
    for error in filter(None, ended):
        raise error
    await asyncio.sleep(RARE_PAUSE_SECONDS)


@_attack
async def _upload(_: Vault, caller: Caller) -> None:
    data = _document(DOCUMENT_BYTES)

    async def requests() -> AsyncIterator[pb.UploadAttachmentRequest]:
        for request in upload_requests(data, "application/pdf"):
            yield request

    await caller.chat.UploadAttachment(requests(), metadata=caller.metadata)
    await asyncio.sleep(RARE_PAUSE_SECONDS)


def _document(size: int) -> bytes:
    """Returns a PDF with bytes after its end, which are ignored; no two are equal."""
    return FILES["application/pdf"] + os.urandom(16) + bytes(size - 128)
