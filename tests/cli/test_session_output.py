"""What sessions, turns, models and usage look like: on a terminal, in a pipe, as JSON, and when refused."""

import asyncio
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.support.caller import text_block
from tests.support.command import METAMORPH, run
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.serving import Serving, asking, serving
from tests.support.terminal import terminal
from tests.support.tokens import mint
from tests.support.tools import ASKS, WEATHER, result

LONG = "A title that is a good deal longer than what a terminal of eighty columns has left for it"


async def asked(server: Serving, *arguments: str, typed: str = "", **claims: str) -> tuple[int | None, str, str]:
    reach = {"METAMORPH_TARGET": server.target, "METAMORPH_TOKEN": mint(**claims)}
    return await run(*arguments, typed=typed, **reach)


async def printed(server: Serving, *arguments: str) -> str:
    code, out, err = await asked(server, *arguments)
    assert (code, err) == (0, "")
    return out


async def test_json_is_a_line_a_row_with_the_names_of_the_contract(running: Serving) -> None:
    alice = running.caller()
    session = await alice.create_session(title=LONG)
    await alice.send(session.session_id, "Herons")
    (row,) = map(json.loads, (await printed(running, "sessions", "list", "--json")).splitlines())
    assert (row["session_id"], row["title"], row["message_count"]) == (session.session_id, LONG, 2)
    matches = [
        json.loads(line) for line in (await printed(running, "sessions", "search", "herons", "--json")).splitlines()
    ]
    assert [each["role"] for each in matches] == ["ROLE_ASSISTANT", "ROLE_USER"]
    (turn,) = map(json.loads, (await printed(running, "turns", "list", session.session_id, "--json")).splitlines())
    assert turn["status"] == "TURN_STATUS_COMPLETED"
    head, *messages = map(
        json.loads, (await printed(running, "sessions", "show", session.session_id, "--json")).splitlines()
    )
    assert (head["session"]["title"], [each["message"]["turn_id"] for each in messages]) == (
        LONG,
        [turn["turn_id"]] * 2,
    )
    models = [json.loads(line) for line in (await printed(running, "models", "--json")).splitlines()]
    assert [each["model"] for each in models if each["is_default"]] == [turn["model"]]
    used, whole = map(json.loads, (await printed(running, "usage", "--json")).splitlines())
    assert (used["model"], whole["total"]["turns"]) == (turn["model"], "1")
    assert set(whole) == {"total", "budgets", "storage"}


async def test_all_pages_are_read_and_limit_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=1, rate_limit_window_seconds=2) as server:
        made = [await server.caller(user=f"user-{number}").create_session(title=f"t{number}") for number in range(205)]
        newest = [each.session_id for each in reversed(made)]
        for arguments, count in (([], 205), (["--limit", "203"], 203), (["--limit", "2"], 2)):
            out = await printed(server, "sessions", "list", *arguments)
            assert [line.split("\t")[0] for line in out.splitlines()] == newest[:count]


async def test_a_reader_that_has_enough_ends_it_without_a_traceback(running: Serving) -> None:
    alice = running.caller()
    for number in range(3):
        await alice.create_session(title=f"t{number}")
    line = f"{shlex.join(METAMORPH)} sessions list | head -n 0; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", line, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert await process.communicate() == (b"", b"")


async def test_a_table_fits_the_terminal_and_only_titles_are_shortened(running: Serving, tmp_path: Path) -> None:
    alice = running.caller()
    sessions = [await alice.create_session(title=title) for title in (LONG, "\x1b[31m\u202egreen\n", "日本語" * 20)]
    await alice.send(sessions[0].session_id, "Where do herons sleep?")
    reach = ["--target", running.target, "--token", mint()]
    async with terminal(tmp_path, *METAMORPH, "sessions", "list", *reach) as shown:
        assert await shown.exit_code() == 0
        heading, *rows = (await shown.everything())[:4]
    assert heading.split() == ["session", "active", "messages", "title"]
    assert [row.split()[0] for row in rows] == [sessions[at].session_id for at in (0, 2, 1)]
    assert re.search(r" +(now|1m) +2  A title that is a goo.*…$", rows[0]), rows[0]
    assert rows[1].endswith("…")
    assert "\ufffd[31m\ufffdgreen" in rows[2]
    for command in (["turns", "list", sessions[0].session_id], ["models"], ["usage"], ["usage", "--by", "session"]):
        async with terminal(tmp_path, *METAMORPH, *command, *reach) as shown:
            assert await shown.exit_code() == 0
            table = (await shown.everything())[:3]
        assert not any("…" in row for row in table), table


async def test_a_session_is_rendered_on_a_terminal(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("# Birds\n\nHerons sleep **standing**.\x1b[2J",))
    async with asking(api, tmp_path / "server") as running:
        session = await running.caller().create_session(title="Herons")
        await running.caller().send(session.session_id, "**Where?**")
        reach = ["--target", running.target, "--token", mint()]
        async with terminal(tmp_path, *METAMORPH, "sessions", "show", session.session_id, *reach) as shown:
            assert await shown.exit_code() == 0
            rows = await shown.everything()
    assert "**Where?**" in rows
    assert "Herons sleep standing.\ufffd[2J" in rows
    assert rows[0].strip() == "Herons"


async def test_all_that_a_message_has_is_in_the_transcript(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.script += [ASKS, Reply(("It is sunny.",))]
    async with asking(api, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session(title="Weather", system_prompt="Be\nbrief.", labels={"team": "web"})
        await alice.send(session.session_id, "How is it?", tools=[WEATHER])
        content = [result(text="```\nSunny"), text_block("Well?")]
        await alice.send(session.session_id, content=content, tools=[WEATHER])
        out = await printed(running, "sessions", "show", session.session_id)
    assert "\n- Labels: team=web\n" in out
    assert "\n> Be\n> brief.\n" in out
    assert '*Calls the tool weather (toolu_1):*\n\n```json\n{"z": 1, "a": "Paris"}\n```\n' in out
    assert "*Result of toolu_1:*\n\n````\n```\nSunny\n````\n\nWell?\n" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sessions", "show", "ses_none"], "SESSION_NOT_FOUND: no session ses_none"),
        (["sessions", "delete", "ses_none", "--yes"], "SESSION_NOT_FOUND"),
        (["sessions", "export", "ses_none"], "SESSION_NOT_FOUND"),
        (["sessions", "search", "herons", "--session", "ses_none"], "SESSION_NOT_FOUND"),
        (["turns", "list", "ses_none"], "SESSION_NOT_FOUND"),
        (["turns", "cancel", "turn_none"], "TURN_NOT_FOUND"),
        (["usage", "--by", "user", "--by", "label"], "REQUEST_INVALID"),
    ],
)
async def test_a_refusal_is_one_line_and_its_exit_code(running: Serving, arguments: list[str], said: str) -> None:
    code, out, err = await asked(running, *arguments)
    assert (code, out, said in err, err.count("\n")) == (1, "", True, 1), err
    code, _, _ = await run(*arguments, METAMORPH_TARGET=running.target, METAMORPH_TOKEN="nonsense")
    assert code == 4
