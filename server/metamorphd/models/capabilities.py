"""The capabilities of models."""

from collections.abc import Iterator
from dataclasses import dataclass

from metamorphd.models.content import AttachmentBlock, Content, DocumentBlock, ImageBlock, attachment_blocks
from metamorphd.models.generation import EFFORTS, THINKING_MODES, EffectiveOptions

# The provider accepts requests of at most 32 MB. A megabyte is for all that is not in messages.
REQUEST_BYTES = 31_000_000
# Of attachments in a prompt. In base64, so many leave little for text; with more text there is less room for them.
PROMPT_BYTES = 22 * 1024 * 1024
# With more attachments than this, an image may have at most so many pixels on a side:
# https://platform.claude.com/docs/en/build-with-claude/vision.
FEW_IMAGES = 20
MANY_IMAGES_SIDE = 2000
# Of the documents in a prompt, for models whose context has at least so many tokens, and for others:
# https://platform.claude.com/docs/en/build-with-claude/pdf-support.
MOST_PAGES = 600
MOST_PAGES_CONTEXT = 1_000_000
FEW_PAGES = 100


def is_large(block: AttachmentBlock) -> bool:
    """Returns whether an attachment is an image that is too large for a prompt with more than FEW_IMAGES."""
    return isinstance(block, ImageBlock) and block.longest_side > MANY_IMAGES_SIDE


def pages_of(block: AttachmentBlock) -> int:
    """Returns how many pages an attachment states that it has, 0 if it has none or that is unknown."""
    return block.pages if isinstance(block, DocumentBlock) else 0


def most_pages(context_tokens: int) -> int:
    """Returns how many pages of documents the provider accepts in a prompt, by the size of the model's context."""
    return MOST_PAGES if context_tokens >= MOST_PAGES_CONTEXT else FEW_PAGES


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The options and content that a model accepts.

    `thinking` has the modes that can be named, `efforts` the levels from the least to the most. `attachments` is the
    most images and documents that a prompt may have, `document_pages` the most pages that the documents may have
    together. `summaries`: the provider summarizes earlier messages for it.
    """

    thinking: tuple[str, ...] = THINKING_MODES
    thinks_by_default: bool = False
    forced_tool_choice: bool = True
    efforts: tuple[str, ...] = EFFORTS
    images: bool = True
    documents: bool = True
    attachments: int = 100
    document_pages: int = FEW_PAGES
    response_schema: bool = True
    summaries: bool = True

    def unsupported(self, options: EffectiveOptions) -> Iterator[tuple[str, str, str]]:
        """Yields (name of the option, field path, description) of the options that the model does not accept."""
        if options.thinking.mode and options.thinking.mode not in self.thinking:
            yield "thinking", "thinking.mode", _accepts("modes", self.thinking)
        if options.effort and options.effort not in self.efforts:
            yield "effort", "effort", _accepts("levels", self.efforts)
        elif options.effort in ("xhigh", "max") and options.thinking.mode in ("disabled", "between_tools"):
            yield "effort", "effort", f"must be at most HIGH with thinking {options.thinking.mode.upper()}"
        if options.response_schema and not self.response_schema:
            yield "response_schema", "response_schema", "is not supported by the model"
        if options.tool_choice.mode in ("any", "tool") and not self.forced_tool_choice:
            yield "tool_choice", "tool_choice.mode", "is not supported by the model, which decides itself"

    def unreadable(self, content: Content) -> Iterator[tuple[str, str]]:
        """Yields (field path, description) of what the model cannot read of a message's described attachments."""
        attachments = list(attachment_blocks(content))
        size = sum(block.size for block in attachments)
        if len(attachments) > self.attachments:
            yield "content", f"has {len(attachments)} attachments; the model reads at most {self.attachments}"
        if size > PROMPT_BYTES:
            yield "content", f"has {size} bytes of attachments; the model reads at most {PROMPT_BYTES}"
        if (pages := sum(map(pages_of, attachments))) > self.document_pages:
            yield "content", f"has {pages} pages of documents; the model reads at most {self.document_pages}"
        for place, block in enumerate(content):
            within = list(attachment_blocks((block,)))
            if not all(self.images if isinstance(part, ImageBlock) else self.documents for part in within):
                yield f"content[{place}]", "has an attachment that the model cannot read"
            if len(attachments) > FEW_IMAGES and any(map(is_large, within)):
                large = f"has an image of more than {MANY_IMAGES_SIDE} pixels a side"
                yield f"content[{place}]", f"{large}; with more than {FEW_IMAGES} attachments that is the most"


def _accepts(what: str, accepted: tuple[str, ...]) -> str:
    named = ", ".join(value.upper() for value in accepted) or "none"
    return f"is not supported by the model; {what} that are: {named}"
