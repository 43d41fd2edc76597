"""Answers of the provider's address: events of a reply, a count, or what another server sends."""

import json
import re
from collections.abc import AsyncIterable
from typing import Any

import orjson

from metamorphd.errors import DomainError, UpstreamFailed, UpstreamInterrupted, UpstreamNotAStream, UpstreamUnavailable
from metamorphd.llm.event_stream import BOM, DOCUMENTS, ErrorData
from metamorphd.llm.failures import RejectedInReply, within_reply
from metamorphd.llm.reply_usage import is_count
from metamorphd.llm.request import Request

_MEDIA_TYPE = re.compile(r"[a-z]{1,16}/[a-z0-9.+-]{1,64}")
NOT_STREAMS = ("html", "json", "xml")
# How errors of gateways begin, which are not events of the Messages API.
ERROR_FIELDS = {"error", "message", "detail"}
# In bytes. A count has twenty, an error a few hundred.
LARGEST_ANSWER = 64 * 1024


def refuse_documents(response: Any) -> None:
    """Raises UpstreamNotAStream for a page or a JSON document, with which other servers answer than the provider's."""
    media_type = _media_type(response)
    if media_type.endswith(NOT_STREAMS):
        raise _named(media_type)


def event_of(data: bytes) -> Any:
    """Returns an event of a reply. Raises an Upstream… error for an error event, ValueError for invalid JSON."""
    try:
        event = _parsed(data)
    except ValueError:
        if isinstance(data, ErrorData):
            raise UpstreamFailed from None
        raise
    if isinstance(data, ErrorData) or _is_error(event):
        raise within_reply(event)
    return event


async def count_in(response: Any, request: Request) -> int:
    """Returns the tokens in the answer to a count. Reads no more than LARGEST_ANSWER and what comes with its end.

    Raises the error that it has in place of a count, and UpstreamNotAStream for any other answer: a page, a document,
    or a count that is none.
    """
    body = await start_of(response.iter_bytes())
    answer = _document(body)
    if isinstance(answer, dict):
        if is_count(count := answer.get("input_tokens")):
            return count
        if _is_error(answer):
            raise _before_count(within_reply(answer), request)
    raise _named(DOCUMENTS.get(body.removeprefix(BOM).lstrip()[:1]) or _media_type(response))


async def start_of(chunks: AsyncIterable[bytes]) -> bytes:
    """Returns the bytes of an answer, up to the chunk with which they are more than LARGEST_ANSWER."""
    received = bytearray()
    async for chunk in chunks:
        received += chunk
        if len(received) > LARGEST_ANSWER:
            break
    return bytes(received)


def _document(body: bytes) -> Any:
    """Returns what a body says as JSON, or None if it is none."""
    try:
        return _parsed(body.removeprefix(BOM)) if len(body) <= LARGEST_ANSWER else None
    except (ValueError, RecursionError):
        return None


def _before_count(failure: DomainError | RejectedInReply, request: Request) -> DomainError:
    if isinstance(failure, RejectedInReply):
        return failure.error(request)
    # There is no reply that could have been cut off.
    return UpstreamUnavailable() if isinstance(failure, UpstreamInterrupted) else failure


def _media_type(response: Any) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _named(media_type: str) -> UpstreamNotAStream:
    return UpstreamNotAStream(content_type=media_type if _MEDIA_TYPE.fullmatch(media_type) else "unknown")


def _is_error(event: Any) -> bool:
    """Returns whether an event is an error, by its type, or without one by what only errors have."""
    kind = event.get("type")
    if kind is None:
        return not ERROR_FIELDS.isdisjoint(event)
    return kind == "error" or (isinstance(kind, str) and kind.endswith("_error"))


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # orjson rejects lone surrogates, which JSON can express and the standard library reads. Invalid UTF-8 is
        # decoded as event streams are.
        return json.loads(data.decode(errors="replace"))
