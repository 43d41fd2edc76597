"""The prompt that is built from a branch."""

from metamorphd.chat.prompt_builder import (
    GONE,
    LEFT_OUT,
    attachments_in,
    prompt_messages,
    within_limit,
    without_missing,
)
from metamorphd.models.capabilities import PROMPT_BYTES
from metamorphd.models.content import (
    Block,
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.message import BranchMessage, Role

CALL = ToolUseBlock("t1", "tool", "{}")
RESULT = ToolResultBlock("t1", (), False)


def user(*content: Block) -> BranchMessage:
    return BranchMessage("", Role.USER, content, is_root=True)


def reply(*content: Block) -> BranchMessage:
    return BranchMessage("", Role.ASSISTANT, content, is_root=False)


def prompt(*branch: BranchMessage) -> list[tuple[Role, Content]]:
    return [(message.role, message.content) for message in prompt_messages(branch)]


def test_text_is_unchanged_and_blank_text_is_omitted() -> None:
    hello = TextBlock(" Hello ")
    assert prompt(user(hello, TextBlock(" \n")), reply(TextBlock(" ")), user(hello)) == [(Role.USER, (hello,))] * 2


def test_a_conversation_starts_and_ends_with_the_user_after_any_deletion() -> None:
    spoken = TextBlock("said")
    assert prompt(user(), reply(spoken), user(spoken)) == [
        (Role.USER, (GONE,)),
        (Role.ASSISTANT, (spoken,)),
        (Role.USER, (spoken,)),
    ]
    assert prompt(user(spoken), reply(), user(RESULT))[-1] == (Role.USER, (GONE,))


def test_a_tool_call_and_its_result_are_included_together_or_not_at_all() -> None:
    ask = user(TextBlock("ask"))
    assert prompt(ask, reply(CALL), user(RESULT)) == [
        (Role.USER, (TextBlock("ask"),)),
        (Role.ASSISTANT, (CALL,)),
        (Role.USER, (RESULT,)),
    ]
    # The reply or the tool result was deleted.
    assert prompt(ask, reply(), user(RESULT, TextBlock("so?"))) == [
        (Role.USER, (TextBlock("ask"),)),
        (Role.USER, (TextBlock("so?"),)),
    ]
    assert prompt(ask, reply(CALL), user()) == [(Role.USER, (TextBlock("ask"),)), (Role.USER, (GONE,))]
    other = ToolUseBlock("t2", "tool", "{}")
    assert prompt(ask, reply(TextBlock("a"), CALL, other), user(RESULT, TextBlock("b")))[1:] == [
        (Role.ASSISTANT, (TextBlock("a"),)),
        (Role.USER, (TextBlock("b"),)),
    ]


def test_thinking_is_included_only_if_signed_and_never_alone() -> None:
    signed, unsigned = ThinkingBlock("a", signature="s"), ThinkingBlock("b")
    redacted = ThinkingBlock("", redacted="r")
    spoken = TextBlock("said")
    assert prompt(reply(signed, redacted, spoken, unsigned)) == [(Role.ASSISTANT, (signed, redacted, spoken))]
    assert prompt(reply(signed, redacted)) == []


def test_thinking_of_a_reply_that_lacks_something_before_it_is_left_out() -> None:
    signed, unsigned, redacted = ThinkingBlock("a", signature="s"), ThinkingBlock("b"), ThinkingBlock("", redacted="r")
    spoken = TextBlock("said")
    for lacking in (unsigned, TextBlock(" "), CALL):
        assert prompt(reply(signed, lacking, redacted, spoken)) == [(Role.ASSISTANT, (spoken,))]


def test_messages_before_the_last_summary_are_omitted_except_the_one_it_answers() -> None:
    first, second = CompactionBlock("one"), CompactionBlock("two")
    branch = [
        user(TextBlock("1")),
        reply(first, TextBlock("2")),
        user(TextBlock("3")),
        reply(CALL),
        user(RESULT),
        reply(second, TextBlock("4")),
        user(TextBlock("5")),
    ]
    assert prompt(*branch) == [
        (Role.USER, (TextBlock("3"),)),
        (Role.ASSISTANT, (CALL,)),
        (Role.USER, (RESULT,)),
        (Role.ASSISTANT, (second, TextBlock("4"))),
        (Role.USER, (TextBlock("5"),)),
    ]
    assert prompt(*branch[:3])[0] == (Role.USER, (TextBlock("1"),))


def test_the_prompt_of_an_empty_branch_is_empty() -> None:
    assert prompt_messages([]) == ()


def picture(name: str, size: int = 1) -> ImageBlock:
    return ImageBlock(name, "image/png", size, "")


def test_a_conversation_after_a_summary_may_start_with_an_image() -> None:
    first, summary = picture("a"), CompactionBlock("so far")
    branch = (user(TextBlock("before")), reply(TextBlock("x")), user(first), reply(summary), user(TextBlock("on")))
    assert prompt(*branch)[0] == (Role.USER, (first,))


def test_attachments_beyond_the_limit_are_replaced_by_a_note_oldest_first() -> None:
    half = PROMPT_BYTES // 2
    old, middle, new = picture("old", 1), picture("middle", half + 1), DocumentBlock("new", "text/plain", half, "")
    result = ToolResultBlock("t1", (old, TextBlock("b"), middle), False)
    branch = prompt_messages((user(TextBlock("a"), old), reply(CALL), user(result, new)))
    kept = within_limit(branch, most=100, pages=100, text_bytes=0)
    assert [message.content for message in kept] == [
        (TextBlock("a"), LEFT_OUT),
        (CALL,),
        (ToolResultBlock("t1", (LEFT_OUT, TextBlock("b"), LEFT_OUT), False), new),
    ]
    assert attachments_in(kept) == {("new", half)}
    fitting = (user(old), user(picture("middle", half - 1), new))
    assert within_limit(prompt_messages(fitting), most=100, pages=100, text_bytes=0) == prompt_messages(fitting)


def paper(name: str, pages: int, size: int = 1) -> DocumentBlock:
    return DocumentBlock(name, "application/pdf", size, "", pages)


def test_documents_beyond_the_limit_of_pages_are_replaced_by_a_note_oldest_first() -> None:
    def kept(*blocks: Block, pages: int = 100, most: int = 100) -> list[Block]:
        """Returns what is kept of attachments, all of them in messages of their own but the last two."""
        branch = prompt_messages((*map(user, blocks[:-2]), user(*blocks[-2:])))
        return [block for each in within_limit(branch, most=most, pages=pages, text_bytes=0) for block in each.content]

    oldest, old, middle, new = paper("oldest", 1), paper("old", 60), paper("middle", 1), paper("new", 99)
    image, text, unknown = picture("image"), DocumentBlock("text", "text/plain", 1, ""), paper("unknown", 0)
    assert kept(middle, new) == [middle, new]
    assert kept(old, middle, new) == [LEFT_OUT, middle, new]
    # Once one is left out, no older one is there, however small: the newest are what is kept.
    assert kept(oldest, old, new) == [LEFT_OUT, LEFT_OUT, new]
    # What has no pages, or does not state them, is not left out for them.
    assert kept(image, text, unknown, old, new) == [image, text, unknown, LEFT_OUT, new]
    # The same one twice is read twice.
    assert kept(old, old) == [LEFT_OUT, old]
    assert kept(old, old, pages=120) == [old, old]
    assert kept(image, middle, new, most=2) == [LEFT_OUT, middle, new]
    result = ToolResultBlock("t1", (new, TextBlock("a"), old), False)
    branch = prompt_messages((user(TextBlock("a"), middle), reply(CALL), user(result)))
    assert [message.content for message in within_limit(branch, most=100, pages=100, text_bytes=0)] == [
        (TextBlock("a"), LEFT_OUT),
        (CALL,),
        (ToolResultBlock("t1", (LEFT_OUT, TextBlock("a"), old), False),),
    ]


def test_attachments_leave_room_for_text_in_the_largest_request() -> None:
    size = 1024 * 1024
    branch = prompt_messages((user(*[picture(str(number), size) for number in range(22)]),))
    # In base64, and beside a megabyte for tools and the system prompt.
    for text_bytes, kept in ((0, 22), (2_000_000, 20), (8_000_000, 16)):
        sizes = attachments_in(within_limit(branch, most=100, pages=100, text_bytes=text_bytes))
        assert len(sizes) == kept
        assert sum(size for _, size in sizes) * 4 // 3 + text_bytes < 31_000_000


def test_a_deleted_attachment_is_replaced_by_a_note() -> None:
    gone, there = picture("gone"), picture("there")
    result = ToolResultBlock("t1", (gone, there), True)
    branch = prompt_messages((user(gone), reply(CALL), user(result)))
    assert attachments_in(branch) == {("gone", 1), ("there", 1)}
    assert [message.content for message in without_missing(branch, {"there": 1})] == [
        (LEFT_OUT,),
        (CALL,),
        (ToolResultBlock("t1", (LEFT_OUT, there), True),),
    ]


def test_an_attachment_of_another_size_than_its_block_says_is_replaced_by_a_note() -> None:
    small, honest, large = picture("same", 1), picture("same", 2), picture("same", 3)
    branch = prompt_messages((user(small, honest), user(large)))
    assert attachments_in(branch) == {("same", 1), ("same", 2), ("same", 3)}
    kept = without_missing(branch, {"same": 2})
    assert [block for message in kept for block in message.content] == [LEFT_OUT, honest, LEFT_OUT]
