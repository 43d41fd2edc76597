"""Reads prompts with all that is sent to the model, for which they wait until there is memory."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from metamorphd.chat.prompt_builder import (
    attachments_in,
    exchanges,
    prompt_messages,
    readable,
    within_limit,
    without_missing,
)
from metamorphd.in_flight import BytesInFlight
from metamorphd.llm.interface import LARGE_TEXT, AttachmentData, Prompt, PromptMessage
from metamorphd.models.attachment import Upload
from metamorphd.models.caller import Scope
from metamorphd.models.capabilities import Capabilities
from metamorphd.models.content import Content
from metamorphd.models.message import Branch, Message
from metamorphd.models.turn import Turn
from metamorphd.store.attachments import chunk_count, read_chunk, sendable_attachments
from metamorphd.store.codec import encode_content
from metamorphd.store.database import Database
from metamorphd.store.turns.prompt import PlannedPrompt, get_prompt, plan_prompt
from metamorphd.store.turns.terms import Terms

# Of a text: as it is stored, as it is decoded, and in the body that is sent.
COPIES = 3


class Prompts:
    """Reads the prompts of turns. Those with much text are built on a thread, since the event loop serves all.

    `memory` is what their texts take up until they are sent. Attachments are read from the store while they are sent.
    """

    def __init__(self, *, database: Database, terms: Terms, memory: BytesInFlight) -> None:
        self._database = database
        self._terms = terms
        self._memory = memory

    @asynccontextmanager
    async def of_turn(self, scope: Scope, turn: Turn, *, said: Content = ()) -> AsyncGenerator[Prompt]:
        """Yields the prompt of a turn that has started. `said` is what the model has said in it, with results."""
        async with self._prompt(scope, turn.session_id, get_prompt, (), turn=turn) as prompt:
            yield _going_on(prompt, said, turn) if said else prompt

    @asynccontextmanager
    async def of_message(
        self, scope: Scope, message: Message, uploads: Sequence[Upload], **arguments: Any
    ) -> AsyncGenerator[Prompt]:
        """Yields the prompt that a turn on a message would have. Raises the errors of `plan_prompt`.

        `arguments` are the parent and the options, as for `plan_prompt`.
        """
        async with self._prompt(
            scope, message.session_id, plan_prompt, uploads, message=message, **arguments
        ) as prompt:
            yield prompt

    @asynccontextmanager
    async def _prompt(
        self,
        scope: Scope,
        session_id: str,
        read: Callable[..., Coroutine[Any, Any, PlannedPrompt]],
        uploads: Sequence[Upload],
        **arguments: Any,
    ) -> AsyncGenerator[Prompt]:
        arguments["terms"] = self._terms
        planned = await self._database.read(read, scope, read_bytes=LARGE_TEXT, **arguments)
        async with AsyncExitStack() as memory:
            size = planned.branch.size
            if planned.branch.messages is None:
                await memory.enter_async_context(self._memory.reserved(scope.vault_id, COPIES * size))
                planned = await self._database.read(read, scope, **arguments)
            can = self._terms.catalog.model(planned.options.model).capabilities
            if size > LARGE_TEXT:
                messages, named = await asyncio.to_thread(_messages, planned.branch, can)
            else:
                messages, named = _messages(planned.branch, can)
            system_prompt, options = planned.system_prompt, planned.options
            # It may be of megabytes, and a provider may take long to answer.
            del planned
            attachments = {
                upload.attachment_id: AttachmentData(len(upload.data), partial(_of_upload, upload))
                for upload in uploads
            }
            stored = {attachment_id for attachment_id, _ in named} - attachments.keys()
            if stored:
                sizes = await self._database.read(sendable_attachments, scope, attachment_ids=stored)
                for attachment_id, length in sizes.items():
                    pieces = partial(self._of_store, scope, attachment_id, length)
                    attachments[attachment_id] = AttachmentData(length, pieces)
            there = {attachment_id: attachment.size for attachment_id, attachment in attachments.items()}
            if named - there.items():
                messages = without_missing(messages, there)
            prompts = [
                Prompt(
                    system_prompt=system_prompt,
                    messages=messages,
                    attachments=attachments,
                    options=self._terms.stated(options),
                    text_bytes=size,
                    summarized=can.summaries,
                    session_id=session_id,
                    span=scope.span,
                )
            ]
            del messages
            # Popped, so that this frame does not hold it until it is sent.
            yield prompts.pop()
            attachments.clear()

    async def _of_store(self, scope: Scope, attachment_id: str, size: int) -> AsyncGenerator[bytes]:
        for number in range(chunk_count(size)):
            yield await self._database.read(read_chunk, scope, attachment_id=attachment_id, number=number)


def _going_on(prompt: Prompt, said: Content, turn: Turn) -> Prompt:
    # The reply has no ID before it is stored.
    messages = tuple(PromptMessage(role, content, turn.turn_id) for role, content in exchanges(said))
    size = len(encode_content(said).encode())
    return replace(prompt, messages=prompt.messages + messages, own=len(messages), text_bytes=prompt.text_bytes + size)


async def _of_upload(upload: Upload) -> AsyncGenerator[bytes | memoryview]:
    yield upload.data


def _messages(branch: Branch, can: Capabilities) -> tuple[tuple[PromptMessage, ...], set[tuple[str, int]]]:
    """Returns the messages of a prompt, and (id, size) of their attachments."""
    messages = within_limit(
        readable(prompt_messages(tuple(branch.messages or ())), can),
        most=can.attachments,
        pages=can.document_pages,
        text_bytes=branch.size,
    )
    return messages, attachments_in(messages)
