"""What of a branch the model is told."""

from metamorphd.chat.prompt_builder import (
    GONE,
    LEFT_OUT,
    PROMPT_BYTES,
    attachment_ids,
    prompt_messages,
    within_limit,
    without_missing,
)
from metamorphd.models.content import (
    CompactionBlock,
    Content,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.message import Message, Role

from tests.support.rows import new_message

CALL = ToolUseBlock("t1", "tool", "{}")
RESULT = ToolResultBlock("t1", (), False)


def user(*content: object) -> Message:
    return new_message("ses", content=content)


def reply(*content: object) -> Message:
    return new_message("ses", content=content, role=Role.ASSISTANT)


def told(*branch: Message) -> list[tuple[Role, Content]]:
    return [(message.role, message.content) for message in prompt_messages(branch)]


def test_text_goes_as_it_is_but_for_white_space_alone() -> None:
    hello = TextBlock(" Hello ")
    assert told(user(hello, TextBlock(" \n")), reply(TextBlock(" ")), user(hello)) == [(Role.USER, (hello,))] * 2


def test_a_conversation_begins_and_ends_with_the_user_whatever_was_deleted() -> None:
    said = TextBlock("said")
    assert told(user(), reply(said), user(said)) == [
        (Role.USER, (GONE,)),
        (Role.ASSISTANT, (said,)),
        (Role.USER, (said,)),
    ]
    assert told(user(said), reply(), user(RESULT))[-1] == (Role.USER, (GONE,))


def test_a_call_and_its_result_go_together_or_not_at_all() -> None:
    ask = user(TextBlock("ask"))
    assert told(ask, reply(CALL), user(RESULT)) == [
        (Role.USER, (TextBlock("ask"),)),
        (Role.ASSISTANT, (CALL,)),
        (Role.USER, (RESULT,)),
    ]
    # The reply, or the answer, was deleted.
    assert told(ask, reply(), user(RESULT, TextBlock("so?"))) == [
        (Role.USER, (TextBlock("ask"),)),
        (Role.USER, (TextBlock("so?"),)),
    ]
    assert told(ask, reply(CALL), user()) == [(Role.USER, (TextBlock("ask"),)), (Role.USER, (GONE,))]
    other = ToolUseBlock("t2", "tool", "{}")
    assert told(ask, reply(TextBlock("a"), CALL, other), user(RESULT, TextBlock("b")))[1:] == [
        (Role.ASSISTANT, (TextBlock("a"),)),
        (Role.USER, (TextBlock("b"),)),
    ]


def test_thinking_goes_signed_and_never_alone() -> None:
    signed, unsigned = ThinkingBlock("a", signature="s"), ThinkingBlock("b")
    redacted = ThinkingBlock("", redacted="r")
    said = TextBlock("said")
    assert told(reply(signed, unsigned, redacted, said)) == [(Role.ASSISTANT, (signed, redacted, said))]
    assert told(reply(signed, redacted)) == []


def test_what_lies_before_the_last_summary_is_left_out_but_the_message_it_answers() -> None:
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
    assert told(*branch) == [
        (Role.USER, (TextBlock("3"),)),
        (Role.ASSISTANT, (CALL,)),
        (Role.USER, (RESULT,)),
        (Role.ASSISTANT, (second, TextBlock("4"))),
        (Role.USER, (TextBlock("5"),)),
    ]
    assert told(*branch[:3])[0] == (Role.USER, (TextBlock("1"),))


def test_nothing_is_told_of_nothing() -> None:
    assert prompt_messages([]) == ()


def picture(name: str, size: int = 1) -> ImageBlock:
    return ImageBlock(name, "image/png", size, "")


def test_a_conversation_begins_with_an_image_too_where_the_summary_left_off() -> None:
    first, summary = picture("a"), CompactionBlock("so far")
    branch = (user(TextBlock("before")), reply(TextBlock("x")), user(first), reply(summary), user(TextBlock("on")))
    assert told(*branch)[0] == (Role.USER, (first,))


def test_attachments_go_the_newest_first_up_to_the_limit_and_leave_a_note() -> None:
    half = PROMPT_BYTES // 2
    old, middle, new = picture("old", 1), picture("middle", half + 1), DocumentBlock("new", "text/plain", half, "")
    result = ToolResultBlock("t1", (old, TextBlock("b"), middle), False)
    branch = prompt_messages((user(TextBlock("a"), old), reply(CALL), user(result, new)))
    kept = within_limit(branch)
    assert [message.content for message in kept] == [
        (TextBlock("a"), LEFT_OUT),
        (CALL,),
        (ToolResultBlock("t1", (LEFT_OUT, TextBlock("b"), LEFT_OUT), False), new),
    ]
    assert attachment_ids(kept) == {"new"}
    fitting = (user(old), user(picture("middle", half - 1), new))
    assert within_limit(prompt_messages(fitting)) == prompt_messages(fitting)


def test_an_attachment_that_is_gone_leaves_a_note() -> None:
    gone, there = picture("gone"), picture("there")
    result = ToolResultBlock("t1", (gone, there), True)
    branch = prompt_messages((user(gone), reply(CALL), user(result)))
    assert attachment_ids(branch) == {"gone", "there"}
    assert [message.content for message in without_missing(branch, {"there"})] == [
        (LEFT_OUT,),
        (CALL,),
        (ToolResultBlock("t1", (LEFT_OUT, there), True),),
    ]
