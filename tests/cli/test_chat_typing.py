"""What is typed in `metamorph chat`, in a terminal of 80 columns and 24 rows."""

import asyncio
import stat
from pathlib import Path

from tests.support.caller import text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.serving import Serving, asking
from tests.support.talking import prompted, say, talking
from tests.support.terminal import Terminal

THREE_LINES = "first line\nsecond line\nthird line"


async def _sent(running: Serving) -> list[str]:
    """Returns the texts of the users' messages of all sessions, the latest session first."""
    alice = running.caller()
    return [
        text_of(message)
        for session in await alice.sessions()
        for message in (await alice.messages(session.session_id))[::2]
    ]


async def _answered(shown: Terminal, reply: str) -> None:
    await shown.until(lambda screen: reply in screen and screen.endswith("\n>"))


async def test_a_pasted_text_of_three_lines_is_one_message(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await shown.paste(THREE_LINES)
        await shown.until("third line")
        assert await _sent(running) == []
        await shown.press("Enter")
        await _answered(shown, "A reply")
        assert await _sent(running) == [THREE_LINES]
        await shown.press("C-d")
        assert await shown.exit_code() == 0


async def test_what_is_pasted_while_a_reply_arrives_waits_as_one_message(tmp_path: Path, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.script += [Reply(("Some words", " and more"), hold=hold), Reply(("Another reply",))]
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Hi")
        await shown.until("Some words")
        await shown.paste(THREE_LINES)
        hold.set()
        await shown.until(lambda screen: "and more" in screen and screen.endswith("third line"))
        await shown.press("Enter")
        await _answered(shown, "Another reply")
        assert await _sent(running) == ["Hi", THREE_LINES]


async def test_alt_enter_begins_another_line_and_ctrl_c_drops_what_is_typed(
    tmp_path: Path, api: FakeMessagesApi
) -> None:
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await shown.type("never sent")
        await shown.until("> never sent")
        await shown.press("C-c")
        await prompted(shown)
        await shown.type("one")
        await shown.press("M-Enter")
        await say(shown, "two")
        await _answered(shown, "A reply")
        assert await _sent(running) == ["one\ntwo"]


async def test_history_is_kept_in_a_private_file_without_what_begins_with_a_space(
    tmp_path: Path, api: FakeMessagesApi
) -> None:
    api.script += [Reply((f"Reply {number}",)) for number in range(3)]
    async with asking(api, tmp_path / "server") as running:
        async with talking(running.target, tmp_path) as shown:
            await say(shown, "a question about whales")
            await _answered(shown, "Reply 0")
            await say(shown, " a secret")
            await _answered(shown, "Reply 1")
        (kept,) = (tmp_path / "state").rglob("history")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert kept.read_text() == '"a question about whales"\n'
        async with talking(running.target, tmp_path) as shown:
            await shown.press("Up")
            await shown.until("> a question about whales")
            await shown.press("C-c")
            await prompted(shown)
            await shown.press("C-r")
            await shown.type("whal")
            await shown.until(lambda screen: "I-search" in screen and "about whales" in screen)
            await shown.press("Enter")
            await shown.until("> a question about whales")
            await shown.press("Enter")
            await _answered(shown, "Reply 2")


async def test_without_history_no_file_is_made(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path / "server") as running:
        for options, environment in ((["--no-history"], ""), ([], "METAMORPH_HISTORY=false")):
            async with talking(running.target, tmp_path, *options, environment=environment) as shown:
                await say(shown, "Hi")
                await _answered(shown, "A reply")
        assert not list(tmp_path.rglob("history"))


async def test_commands_are_completed_and_unknown_ones_send_nothing(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await shown.type("/u")
        await shown.until("show what this session")
        await shown.press("Tab", "Enter")
        await shown.until("Vault: 0 tokens in")
        await say(shown, "/nonsense")
        await shown.until("There is no command /nonsense")
        await shown.until("/regenerate")
        assert await _sent(running) == []
        await say(shown, " /etc is a directory")
        await _answered(shown, "A reply")
        assert await _sent(running) == ["/etc is a directory"]
        await say(shown, "/quit")
        assert await shown.exit_code() == 0


async def test_another_model_another_reply_and_another_session(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.script += [Reply((f"Reply {number}",)) for number in range(4)]
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "/model nonsense")
        await shown.until("does not accept the model nonsense")
        await say(shown, "/regenerate")
        await shown.until("There is no message to answer yet")
        await say(shown, "/model claude-opus-5-5")
        await shown.until("Model: claude-opus-5-5")
        await say(shown, "Whales")
        await _answered(shown, "Reply 0")
        await say(shown, "/regenerate")
        await _answered(shown, "Reply 1")
        await say(shown, "/new")
        await say(shown, "Dolphins")
        await _answered(shown, "Reply 2")
        await say(shown, "/sessions")
        await shown.until("Number, or Enter to stay")
        await say(shown, "2")
        await shown.until(lambda screen: screen.count("Whales, 3 messages") == 2 and screen.endswith("\n>"))
        await say(shown, "More of whales")
        await _answered(shown, "Reply 3")
        alice = running.caller()
        whales, dolphins = await alice.sessions()
        assert (whales.title, whales.message_count, dolphins.title) == ("Whales", 5, "Dolphins")
        assert {message.model for message in await alice.messages(whales.session_id)} == {"", "claude-opus-5-5"}


async def test_a_terminal_without_a_cursor_is_asked_plainly(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    async with (
        asking(api, tmp_path / "server") as running,
        talking(running.target, tmp_path, environment="TERM=dumb") as shown,
    ):
        await say(shown, "Hi")
        await _answered(shown, "A reply")
        await shown.press("C-d")
        assert await shown.exit_code() == 0


async def test_only_the_newest_part_of_a_long_history_is_kept(tmp_path: Path, api: FakeMessagesApi) -> None:
    kept = tmp_path / "state" / "metamorph" / "history"
    kept.parent.mkdir(parents=True)
    kept.write_text("no JSON\n" + "".join(f'"{number:01000}"\n' for number in range(1100)))
    kept.chmod(0o644)
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Hi")
        await _answered(shown, "A reply")
    assert 400_000 < kept.stat().st_size <= 1024 * 1024 // 2
    assert kept.read_text().endswith(f'"{1099:01000}"\n"Hi"\n')
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
