"""What of a branch the model is told."""

from metamorphd.chat.prompt import prompt_messages
from metamorphd.models import (
    CompactionBlock,
    Content,
    Message,
    Role,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

from tests.store.rows import new_message

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
    assert told(ask, reply(CALL), user()) == [(Role.USER, (TextBlock("ask"),))]
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
