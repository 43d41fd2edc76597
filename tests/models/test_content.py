"""Functions that walk the blocks of content."""

from metamorphd.models.content import (
    AttachmentBlock,
    DocumentBlock,
    ImageBlock,
    Part,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    attachment_blocks,
    map_attachments,
    parts,
    text_of,
    text_size,
)

SPEECH, NESTED = TextBlock("said"), TextBlock("größer")
PICTURE, PAGE = ImageBlock("a", "image/png", 1, ""), DocumentBlock("b", "text/plain", 2, "")
CALL = ToolUseBlock("t1", "f", "{}")
RESULT = ToolResultBlock("t1", (NESTED, PAGE), True)
CONTENT = (SPEECH, RESULT, PICTURE, ThinkingBlock("hm"), CALL, SPEECH)


def test_parts_are_in_order_with_those_of_a_tool_result_in_its_place() -> None:
    assert tuple(parts(CONTENT)) == (SPEECH, NESTED, PAGE, PICTURE, ThinkingBlock("hm"), CALL, SPEECH)
    assert tuple(attachment_blocks(CONTENT)) == (PAGE, PICTURE)


def test_text_covers_text_blocks_and_its_size_tool_results_too() -> None:
    assert text_of(CONTENT) == "said\nsaid"
    assert text_size(CONTENT) == 2 * len("said") + len("größer".encode())
    assert (text_of(()), text_size(())) == ("", 0)


def test_only_attachments_are_changed_in_order() -> None:
    visited: list[AttachmentBlock] = []

    def change(block: AttachmentBlock) -> Part:
        visited.append(block)
        return TextBlock("gone") if block is PAGE else block

    changed = map_attachments(CONTENT, change)
    assert visited == [PAGE, PICTURE]
    assert changed == (SPEECH, ToolResultBlock("t1", (NESTED, TextBlock("gone")), True), *CONTENT[2:])
