"""The offline model, which needs no provider. For trying out the server, never for production."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from metamorphd.llm.interface import Prompt, PromptMessage, ReplyEvent, ReplyStop, ReplyText, ReplyUsage
from metamorphd.models.content import ImageBlock, attachment_blocks, text_of
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason
from metamorphd.models.usage import Usage

WORD_SECONDS = 0.015
QUOTED_CHARACTERS = 100


class Offline:
    """Streams a reply that describes itself, word by word. Words count as tokens, and cost nothing."""

    source = "offline"
    charges = False

    async def __aenter__(self) -> Self:
        return self

    async def opened(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[ReplyEvent]]:
        input_tokens = await self.count_tokens(prompt)
        yield [ReplyUsage(Usage(input_tokens=input_tokens))]
        text, stop_reason = _cut(_reply(prompt), prompt.options.stop_sequences)
        words = re.findall(r"\S+\s*|\s+", text)
        if len(words) > prompt.options.max_output_tokens:
            words, stop_reason = words[: prompt.options.max_output_tokens], StopReason.MAX_TOKENS
        for count, word in enumerate(words, start=1):
            yield [ReplyUsage(Usage(input_tokens=input_tokens, output_tokens=count)), ReplyText(0, word)]
            await asyncio.sleep(WORD_SECONDS)
        yield [ReplyStop(stop_reason)]

    async def count_tokens(self, prompt: Prompt) -> int:
        return sum(len(text_of(message.content).split()) for message in prompt.messages)


def _cut(text: str, stop_sequences: tuple[str, ...]) -> tuple[str, StopReason]:
    """Returns the text before the first stop sequence in it, and the stop reason."""
    found = [place for place in map(text.find, stop_sequences) if place >= 0]
    return (text[: min(found)], StopReason.STOP_SEQUENCE) if found else (text, StopReason.END_TURN)


def _attached(message: PromptMessage) -> str:
    """Returns a sentence about the attachments of a message; empty if there are none."""
    attachments = list(attachment_blocks(message.content))
    images = sum(isinstance(block, ImageBlock) for block in attachments)
    counts = [(images, "image"), (len(attachments) - images, "document")]
    phrases = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    return f"Attached to it: {' and '.join(phrases)}. " if phrases else ""


def _reply(prompt: Prompt) -> str:
    text = " ".join(text_of(prompt.messages[-1].content).split())
    quoted = text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS].rstrip() + "…"
    count = sum(message.role is Role.USER for message in prompt.messages)
    place = "the first message of this conversation" if count == 1 else f"message {count} of this conversation"
    return (
        "This is Metamorph's offline model: no language model reads this, because ANTHROPIC_API_KEY is not set. "
        f"You wrote “{quoted}”, which is {place}, and it is stored in your vault like every other. "
        f"{_attached(prompt.messages[-1])}"
        "What you see streams, is committed and can be resumed exactly as a reply from Claude. "
        "To talk to Claude, set ANTHROPIC_API_KEY and start the server again."
    )
