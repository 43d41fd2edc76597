"""`metamorph chat` as a job of an interactive shell, and on a terminal that obeys nothing."""

import asyncio
import shlex
from pathlib import Path

from tests.support.command import METAMORPH
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.programs import require
from tests.support.serving import Serving, asking
from tests.support.talking import say
from tests.support.terminal import terminal
from tests.support.tokens import mint

SHELL = ("env", "PS1=$ ", "bash", "--norc", "-i")


def _command(running: Serving) -> str:
    return shlex.join([*METAMORPH, "chat", "--target", running.target, "--token", mint(), "Hi"])


async def test_ctrl_z_leaves_the_terminal_to_the_shell_until_the_reply_goes_on(
    tmp_path: Path, api: FakeMessagesApi
) -> None:
    hold = asyncio.Event()
    api.default = Reply(("Some words", " and more"), hold=hold)
    async with asking(api, tmp_path / "server") as running, terminal(tmp_path, *SHELL) as shown:
        await say(shown, _command(running))
        await shown.until("Some words")
        assert not await shown.cursor()
        await shown.press("C-z")
        screen = await shown.until("Stopped")
        assert "Some words" not in screen
        assert await shown.cursor()
        await say(shown, "cat")
        await say(shown, "what is typed is seen")
        await shown.until("what is typed is seen\nwhat is typed is seen")
        await shown.press("C-d")
        await say(shown, "fg")
        await shown.until("Some words")
        assert not await shown.cursor()
        hold.set()
        await shown.until(lambda screen: "Continue with --session" in screen and screen.endswith("\n$"))
        assert (await shown.everything()).count("Some words and more") == 1
        assert await shown.cursor()


async def test_a_reply_in_the_background_is_printed_plainly(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("Some **words**\x1b[2J",))
    async with asking(api, tmp_path / "server") as running, terminal(tmp_path, *SHELL) as shown:
        await say(shown, f"{_command(running)} &")
        await shown.until("Continue with --session")
        await say(shown, "wait")
        assert "Some **words**\ufffd[2J" in await shown.until("Done")


async def test_nothing_is_drawn_where_the_cursor_cannot_be_moved(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("Some **words**\x1b[2J",))
    written = tmp_path / "written"
    async with asking(api, tmp_path / "server") as running, terminal(tmp_path, *SHELL) as shown:
        script = require("script", hint="install util-linux")
        await say(shown, f"TERM=dumb {script} -qec {shlex.quote(_command(running))} {written}")
        await shown.until(lambda screen: "Continue with --session" in screen and screen.endswith("\n$"))
    assert "Some **words**\ufffd[2J" in written.read_text()
    assert "\x1b" not in written.read_text()
