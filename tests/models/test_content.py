"""Walks over content."""

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

SAID, HELD = TextBlock("said"), TextBlock("größer")
PICTURE, PAGE = ImageBlock("a", "image/png", 1, ""), DocumentBlock("b", "text/plain", 2, "")
CALL = ToolUseBlock("t1", "f", "{}")
RESULT = ToolResultBlock("t1", (HELD, PAGE), True)
CONTENT = (SAID, RESULT, PICTURE, ThinkingBlock("hm"), CALL, SAID)


def test_parts_are_in_order_those_of_a_tool_result_in_its_place() -> None:
    assert tuple(parts(CONTENT)) == (SAID, HELD, PAGE, PICTURE, ThinkingBlock("hm"), CALL, SAID)
    assert tuple(attachment_blocks(CONTENT)) == (PAGE, PICTURE)


def test_the_text_is_that_of_text_blocks_and_its_size_that_of_tool_results_too() -> None:
    assert text_of(CONTENT) == "said\nsaid"
    assert text_size(CONTENT) == 2 * len("said") + len("größer".encode())
    assert (text_of(()), text_size(())) == ("", 0)


def test_attachments_are_changed_in_order_and_nothing_else_is() -> None:
    asked: list[AttachmentBlock] = []

    def change(block: AttachmentBlock) -> Part:
        asked.append(block)
        return TextBlock("gone") if block is PAGE else block

    changed = map_attachments(CONTENT, change)
    assert asked == [PAGE, PICTURE]
    assert changed == (SAID, ToolResultBlock("t1", (HELD, TextBlock("gone")), True), *CONTENT[2:])
