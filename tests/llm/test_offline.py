"""The offline model."""

from metamorphd.llm.interface import Prompt, PromptMessage, ReplyEvent, ReplyStop, ReplyText, ReplyUsage
from metamorphd.llm.offline import Offline
from metamorphd.models.content import TextBlock
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason


def prompt_of(*texts: str, max_output_tokens: int = 1000, stop: tuple[str, ...] = ()) -> Prompt:
    roles = (Role.USER, Role.ASSISTANT)
    messages = tuple(PromptMessage(roles[n % 2], (TextBlock(text),)) for n, text in enumerate(texts))
    return Prompt(
        "", messages, {}, EffectiveOptions(model="any", max_output_tokens=max_output_tokens, stop_sequences=stop)
    )


async def reply(prompt: Prompt) -> tuple[str, list[ReplyEvent]]:
    events = [event async for batch in Offline().generate(prompt) for event in batch]
    return "".join(event.text for event in events if isinstance(event, ReplyText)), events


async def test_the_reply_says_that_the_model_is_offline_and_how_to_change_that() -> None:
    text, events = await reply(prompt_of("Good morning"))
    assert "offline" in text
    assert "ANTHROPIC_API_KEY" in text
    assert "“Good morning”" in text
    assert "first message" in text
    assert events[-1] == ReplyStop(StopReason.END_TURN)


async def test_the_reply_counts_messages_and_words_and_quotes_little() -> None:
    text, events = await reply(prompt_of("one two", "three", "x" * 500))
    assert "message 2" in text
    assert "x" * 100 + "…" in text
    assert "x" * 101 not in text
    usage = [event.usage for event in events if isinstance(event, ReplyUsage)][-1]
    assert (usage.input_tokens, usage.output_tokens) == (4, len(text.split()))


async def test_the_reply_respects_the_token_limit() -> None:
    text, events = await reply(prompt_of("a", max_output_tokens=3))
    assert len(text.split()) == 3
    assert events[-1] == ReplyStop(StopReason.MAX_TOKENS)


async def test_the_reply_stops_before_a_stop_sequence() -> None:
    text, events = await reply(prompt_of("a", stop=("zzz", "offline")))
    assert text == "This is Metamorph's "
    assert events[-1] == ReplyStop(StopReason.STOP_SEQUENCE)


async def test_the_token_count_equals_the_input_tokens_of_a_reply() -> None:
    prompt = prompt_of("one two", "three", "four")
    usage = [event.usage for event in (await reply(prompt))[1] if isinstance(event, ReplyUsage)][-1]
    assert await Offline().count_tokens(prompt) == usage.input_tokens == 4
