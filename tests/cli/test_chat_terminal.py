"""`metamorph chat`, seen in a terminal of 80 columns and 24 rows."""

import asyncio
import io
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from metamorphd.cli.markdown import markdown
from rich.console import Console

from tests.support.command import METAMORPH
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.processes import serving_process
from tests.support.proxy import CuttingProxy
from tests.support.serving import asking
from tests.support.talking import say, talking
from tests.support.terminal import Terminal, terminal
from tests.support.tokens import mint

PARAGRAPHS = "\n\n".join(f"Paragraph {number}." for number in range(31))
LIST = "\n".join(f"- entry {number}" for number in range(61))
CODE = "\n".join(["```", *(f"line {number}" for number in range(59)), "```"])
ENTRIES = [f"entry {number}" for number in range(59)]
ENTRY = re.compile(r"entry\s+\d+")
# Blocks without an end, of which what came so far is final but for the last row.
GROWING = {
    "code": "\n".join(["```python", *ENTRIES]),
    "image": "![A chart](https://metamorph.example/chart.png) of " + " ".join(f"{entry}," for entry in ENTRIES),
    "list": "\n".join(f"{number}. {entry}" for number, entry in enumerate(ENTRIES, 1)),
    "nested": "- outer\n" + "\n".join(f"  - {entry}" for entry in ENTRIES),
    "paragraph": " ".join(f"This is **{entry}** of a long paragraph." for entry in ENTRIES),
    "quote": "\n".join(f"> {entry}  " for entry in ENTRIES),
}
TABLE = "\n".join(["| a | table |", "|---|---|", *(f"| {entry} | cell |" for entry in ENTRIES)])

DOCUMENT = """# A heading

A paragraph whose *emphasis*
has two lines.
* A list that
  follows at once
- another one

1. numbers

   with a second paragraph

| a | table |
|---|---|
| of | one row |

---

> A quote.

An [address](https://metamorph.example/a_page_of_it) that is long, and
<https://metamorph.example/b> that is shown as it is.

Three rows of words around an image, which must be where it is in the Markdown and not
before the paragraph: ![a *chart*
of two lines](https://metamorph.example/chart.png), and
[![a picture](https://metamorph.example/p.png)](https://metamorph.example/large) that is a link.

Here **begins a passage in bold that goes on for more than the eighty columns of this terminal, and ends
in a later row than the one that it began in**, with `a_name` after it.

    indented code

The end, without a line's end."""


def _letters(text: str, size: int = 7) -> tuple[str, ...]:
    return tuple(text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("reply", [PARAGRAPHS, LIST, CODE], ids=["paragraphs", "list", "code"])
async def test_a_reply_taller_than_the_terminal_leaves_each_of_its_lines_once(
    tmp_path: Path, api: FakeMessagesApi, reply: str
) -> None:
    api.default = Reply(_letters(reply), delay=0.02)
    async with (
        asking(api, tmp_path / "server") as running,
        terminal(tmp_path, *METAMORPH, "chat", "--target", running.target, "--token", mint(), "Hi") as shown,
    ):
        assert await shown.exit_code() == 0
        await shown.until("Continue with --session")
        rows = await shown.everything()
    words = [line.strip("`- ") for line in reply.splitlines() if line.strip("`- ")]
    assert [row.strip(" •") for row in rows if row.strip(" •") in words] == words
    assert len(rows) <= len(reply.splitlines()) + 10


@pytest.mark.parametrize("reply", GROWING.values(), ids=GROWING)
async def test_what_a_block_that_grows_has_so_far_is_in_the_scroll_back(
    tmp_path: Path, api: FakeMessagesApi, reply: str
) -> None:
    hold = asyncio.Event()
    api.default = Reply((reply, "\n\nThe end."), hold=hold)
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Hi")
        await shown.until("entry 58")
        found = ENTRY.findall(" ".join(await shown.everything()))
        hold.set()
        await shown.until("The end.")
    assert found == [f"entry {number}" for number in range(59)]


@pytest.mark.parametrize("reply", [*GROWING.values(), TABLE], ids=[*GROWING, "table"])
async def test_a_terminal_that_is_resized_under_a_block_that_grows_has_all_of_it_once(
    tmp_path: Path, api: FakeMessagesApi, reply: str
) -> None:
    hold = asyncio.Event()
    api.default = Reply((f"Before.\n\n{reply}", "\n\nThe end."), hold=hold)
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Hi")
        await shown.until("entry 58")
        for columns, height in ((60, 12), (100, 30), (40, 20), (80, 24)):
            await shown.resize(columns, height)
            # More than two frames.
            await asyncio.sleep(0.4)
        hold.set()
        await shown.until("The end.")
        whole = " ".join(" ".join(await shown.everything()).split())
    assert ENTRY.findall(whole) == [f"entry {number}" for number in range(59)]
    assert (whole.count("Before."), whole.count("> Hi")) == (1, 1)


async def test_blocks_look_as_if_the_reply_had_come_at_once(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(_letters(DOCUMENT, 3), delay=0.02)
    async with (
        asking(api, tmp_path / "server") as running,
        terminal(tmp_path, *METAMORPH, "chat", "--target", running.target, "--token", mint(), "Hi") as shown,
    ):
        assert await shown.exit_code() == 0
        rows = await shown.everything()
    at_once = io.StringIO()
    Console(file=at_once, width=80).print(markdown(DOCUMENT))
    expected = [row.rstrip() for row in at_once.getvalue().splitlines()]
    assert rows[: len(expected)] == expected
    assert "An address (https://metamorph.example/a_page_of_it) that is long, and" in rows
    assert "https://metamorph.example/b that is shown as it is." in rows
    assert "before the paragraph: 🌆 a chart of two lines (https://metamorph.example/chart" in " ".join(rows)


@asynccontextmanager
async def _cut_off(api: FakeMessagesApi, directory: Path) -> AsyncIterator[tuple[Terminal, CuttingProxy]]:
    """A conversation whose connection is lost in a reply, after "Some words", and what can bring it back."""
    async with (
        asking(api, directory / "server") as running,
        CuttingProxy(running.server.grpc_port) as proxy,
        talking(proxy.target, directory) as shown,
    ):
        await say(shown, "Hi")
        await shown.until("Some words")
        proxy.down = True
        proxy.cut()
        yield shown, proxy


async def test_ctrl_c_stops_the_reply_and_the_conversation_goes_on(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.script += [Reply(("Some words", "never"), hold=asyncio.Event()), Reply(("Another reply",))]
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "First")
        await shown.until("Some words")
        await shown.press("C-c")
        await shown.until(lambda screen: screen.endswith("CANCELLED\n>"))
        await say(shown, "Second")
        await shown.until(lambda screen: "Another reply" in screen and screen.endswith("\n>"))
        await shown.press("C-c")
        assert await shown.exit_code() == 0
        (session,) = await running.caller().sessions()
        assert f"Continue with --session {session.session_id}" in await shown.until("Continue")
        assert (await shown.everything()).count("Some words") == 1


async def test_an_outage_is_one_line_that_goes_when_the_reply_goes_on(tmp_path: Path, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.default = Reply(("Some words", " and more"), hold=hold)
    async with _cut_off(api, tmp_path) as (shown, proxy):
        rows = len((await shown.until("Trying again")).splitlines())
        # Several attempts.
        await asyncio.sleep(2)
        assert len((await shown.until("Trying again")).splitlines()) == rows
        proxy.down = False
        hold.set()
        await shown.until("tokens in")
        everything = await shown.everything()
        assert "Some words and more" in everything
        assert not any("Trying again" in row for row in everything)


async def test_a_second_ctrl_c_leaves_a_reply_that_cannot_be_stopped(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("Some words", "never"), hold=asyncio.Event())
    async with _cut_off(api, tmp_path) as (shown, _):
        await shown.until("Trying again")
        await shown.press("C-c")
        await shown.until("Stopping the reply")
        await shown.press("C-c")
        assert await shown.exit_code() == 1
        assert "Left turn" in await shown.until("Continue with --session")


async def test_a_refusal_is_a_line_and_the_conversation_goes_on(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    async with asking(api, tmp_path, max_content_bytes=20) as running, talking(running.target, tmp_path) as shown:
        await say(shown, "A message of more than twenty bytes")
        await shown.until("CONTENT_TOO_LARGE: ")
        await say(shown, "A short one")
        await shown.until("A reply")


async def test_a_session_that_cannot_be_deleted_is_for_the_next_message(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("A reply",))
    token = mint(permissions=["read", "write"])
    async with (
        asking(api, tmp_path, max_content_bytes=20) as running,
        talking(running.target, tmp_path, token=token) as shown,
    ):
        await say(shown, "A message of more than twenty bytes")
        await shown.until("CONTENT_TOO_LARGE: ")
        await say(shown, "/new")
        await say(shown, "A short one")
        await shown.until(lambda screen: "A reply" in screen and screen.endswith("\n>"))
        (session,) = await running.caller().sessions()
        assert (session.title, session.message_count) == ("A short one", 2)
        await shown.press("C-d")
        assert await shown.exit_code() == 0
        assert "stays without a message" not in await shown.until("Continue with --session")


async def test_ctrl_c_before_a_message_is_sent_is_a_line_and_the_conversation_goes_on(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with talking(server.target, tmp_path) as shown:
            server.process.send_signal(signal.SIGSTOP)
            await say(shown, "First")
            await shown.until("Waiting for the reply")
            await shown.press("C-c")
            await shown.until(lambda screen: screen.endswith("Interrupted. Nothing was sent.\n>"))
            server.process.send_signal(signal.SIGCONT)
            await say(shown, "Second")
            await shown.until(" out\n")
            server.process.send_signal(signal.SIGSTOP)
            await say(shown, "/regenerate")
            await shown.until("Waiting for the reply")
            await shown.press("C-c")
            await shown.until(lambda screen: screen.count("Interrupted. Nothing was sent.\n>") == 2)
            server.process.send_signal(signal.SIGCONT)
            await say(shown, "/regenerate")
            await shown.until(lambda screen: screen.count(" out\n") == 2)


async def test_nothing_in_a_reply_or_a_title_is_obeyed_by_the_terminal(tmp_path: Path, api: FakeMessagesApi) -> None:
    obeyed = "\x1b]0;owned\x07\x1b[2J\x1b[5;5H\u202e"
    api.default = Reply(("Some words", f"{obeyed}\n\n&#x202e;An entity.\n\n```\n{obeyed}code\n```"))
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await running.caller().create_session(title=f"{obeyed}title")
        await say(shown, "Hi")
        await shown.until("tokens in")
        await say(shown, "/sessions")
        await shown.until("Number, or Enter to stay")
        everything = "\n".join(await shown.everything())
        assert await shown.title() != "owned"
    substituted = "\ufffd]0;owned\ufffd\ufffd[2J\ufffd[5;5H\ufffd"
    for text in (f"Some words{substituted}", "\ufffdAn entity.", f"{substituted}code", f"{substituted}title", "> Hi"):
        assert text in everything, text


async def test_a_reply_without_a_word_yet_is_waited_for(tmp_path: Path, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    api.default = Reply(("Some words",), hold=hold, hold_after=0)
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Hi")
        await shown.until("Waiting for the reply")
        hold.set()
        await shown.until("tokens in")
        assert not any("Waiting" in row for row in await shown.everything())
