"""Thinking and tools in `metamorph chat`, in a terminal of 80 columns and 24 rows."""

import asyncio
from pathlib import Path

from tests.support.command import run
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply, thinking, tool_use
from tests.support.serving import asking
from tests.support.talking import say, talking
from tests.support.tokens import mint

THOUGHT = thinking("Let me see what whales eat.", "signed")
WEATHER = tool_use("toolu_1", "get_weather", '{"city": "Oslo", "days": "', "1 " * 200, '"}')
VIEW = tool_use("toolu_1", "memory", '{"command": "view", "path": "/memories"}')


async def test_thinking_is_shown_while_it_arrives_and_is_a_line_afterwards(
    tmp_path: Path, api: FakeMessagesApi
) -> None:
    hold = asyncio.Event()
    api.default = Reply((THOUGHT, "They eat krill."), hold=hold)
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Whales?")
        await shown.until("Let me see what whales eat.")
        hold.set()
        await shown.until(lambda screen: "They eat krill." in screen and screen.endswith("\n>"))
        rows = await shown.everything()
    assert rows[2:5] == ["Thought in 6 words", "", "They eat krill."]


async def test_thinking_is_kept_if_that_is_asked_for(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply((THOUGHT, "They eat krill."))
    async with asking(api, tmp_path / "server") as running:
        async with talking(running.target, tmp_path, "--thinking") as shown:
            await say(shown, "Whales?")
            await shown.until(lambda screen: "They eat krill." in screen and screen.endswith("\n>"))
            assert (await shown.everything())[2:5] == ["Let me see what whales eat.", "", "They eat krill."]
        reach = ["chat", "--target", running.target, "--token", mint()]
        _, out, err = await run(*reach, "--thinking", "Whales?")
        assert ("Let me see" in out, "Let me see" in err) == (False, True)
        _, out, err = await run(*reach, "Whales?")
        assert "Let me see" not in out + err


async def test_a_tool_is_a_line_and_what_to_do_about_it_another(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("I look.", WEATHER), stop_reason="tool_use")
    async with asking(api, tmp_path / "server") as running, talking(running.target, tmp_path) as shown:
        await say(shown, "Weather?")
        await shown.until(lambda screen: "Only the program that offers the tool" in screen and screen.endswith("\n>"))
        rows = await shown.everything()
        assert [row for row in rows if "get_weather" in row] == [rows[4]]
        assert rows[4].startswith('Tool get_weather {"city": "Oslo", "days": "1 1')
        assert (rows[2], len(rows[4]), rows[4][-1]) == ("I look.", 80, "…")
        _, out, err = await run("chat", "--target", running.target, "--token", mint(), "Weather?")
        assert (out.strip(), 'Tool get_weather {"city": "Oslo"' in err) == ("I look.", True)


async def test_a_tool_that_the_server_runs_shows_what_it_returned(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.script += [Reply((VIEW,), stop_reason="tool_use"), Reply(("Nothing is remembered.",))]
    async with asking(api, tmp_path / "server") as running:
        session = await running.caller().create_session(title="Set", memory_tool=True)
        async with talking(running.target, tmp_path, "--session", session.session_id) as shown:
            await say(shown, "What do you know?")
            await shown.until(lambda screen: "Nothing is remembered." in screen and screen.endswith("\n>"))
            rows = await shown.everything()
    rows = rows[rows.index("> What do you know?") :]
    assert rows[1] == 'Tool memory {"command": "view", "path": "/memories"}'
    assert rows[3].startswith("Tool returned: ")
    assert rows[5] == "Nothing is remembered."
