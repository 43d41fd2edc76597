"""Commands of a vault's user around conversations, run as processes: sessions, turns, models, usage."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.caller import Caller
from tests.support.command import METAMORPH, run
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.serving import Serving, asking
from tests.support.terminal import terminal
from tests.support.tokens import mint

PERMISSIONS = ["read", "write", "delete", "admin"]


async def asked(running: Serving, *arguments: str, typed: str = "") -> tuple[int | None, str, str]:
    token = mint(permissions=PERMISSIONS)
    return await run(*arguments, typed=typed, METAMORPH_TARGET=running.target, METAMORPH_TOKEN=token)


async def chatted(running: Serving, text: str = "Where are the quokkas?") -> str:
    """Returns the ID of a session that was made in the terminal."""
    code, _, err = await asked(running, "chat", text)
    assert code == 0, err
    return err.split("--session ")[1].strip()


async def numbered(alice: Caller, count: int) -> list[str]:
    """Returns the IDs of sessions, the newest first."""
    return [(await alice.create_session(title=f"Number {number}")).session_id for number in range(count)][::-1]


async def test_a_session_that_was_made_in_the_terminal_is_found_everywhere(running: Serving, tmp_path: Path) -> None:
    session = await chatted(running)
    for arguments, found in (
        (["sessions", "list"], "Where are the quokkas?"),
        (["sessions", "search", "quokkas"], session),
        (["sessions", "show", session], "Where are the quokkas?"),
        (["turns", "list", session], "completed"),
        (["usage", "--by", "session"], session),
        (["models"], "claude"),
    ):
        code, out, err = await asked(running, *arguments)
        assert (code, found in out, err) == (0, True, ""), (arguments, out, err)
    whole = tmp_path / "vault.ndjson"
    assert (await asked(running, "vault", "export", str(whole)))[0] == 0
    assert session in whole.read_text()


async def test_lists_are_read_to_their_end_or_to_a_limit(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await numbered(running.caller(), 205)
    for arguments, expected in (([], ids), (["--limit", "201"], ids[:201]), (["--limit", "2"], ids[:2])):
        _, out, _ = await asked(running, "sessions", "list", *arguments)
        assert [line.split("\t")[0] for line in out.splitlines()] == expected
    _, out, _ = await asked(running, "sessions", "list", "--json", "--limit", "3")
    assert [json.loads(line)["session_id"] for line in out.splitlines()] == ids[:3]


async def test_lists_are_filtered(running: Serving) -> None:
    alice = running.caller()
    marked = (await alice.create_session(metadata={"case": "17"})).session_id
    await alice.create_session(metadata={"case": "18"})
    _, out, _ = await asked(running, "sessions", "list", "--metadata", "case=17", "--not-archived")
    assert [line.split("\t")[0] for line in out.splitlines()] == [marked]
    assert (await asked(running, "sessions", "list", "--archived"))[1] == ""
    code, _, err = await asked(running, "sessions", "list", "--metadata", "case")
    assert (code, "'case' is not KEY=VALUE" in err, err.count("\n")) == (2, True, 1)
    session = await chatted(running)
    assert (await asked(running, "turns", "list", session, "--status", "failed"))[1] == ""


async def test_a_session_is_deleted_once_somebody_has_confirmed_it(running: Serving) -> None:
    session = await chatted(running)
    code, _, err = await asked(running, "sessions", "delete", session, typed="n\n")
    assert (code, "with 2 messages? Nobody can bring it back" in err) == (1, True)
    assert len(await running.caller().sessions()) == 1
    code, out, _ = await asked(running, "sessions", "delete", session, "--yes")
    assert (code, out, await running.caller().sessions()) == (0, f"{session} is deleted.\n", [])
    code, out, err = await asked(running, "sessions", "show", session)
    assert (code, out, "SESSION_NOT_FOUND" in err, err.count("\n")) == (1, "", True, 1)


async def test_a_session_is_exported_whole_and_replaces_nothing(running: Serving, tmp_path: Path) -> None:
    session, file = await chatted(running), tmp_path / "session.json"
    code, out, err = await asked(running, "sessions", "export", session, "-o", str(file))
    assert (code, out, f"{file} has {session}" in err) == (0, "", True)
    exported = json.loads(file.read_text())
    assert [message["role"] for message in exported["messages"]] == ["ROLE_USER", "ROLE_ASSISTANT"]
    assert (exported["session"]["session_id"], file.stat().st_mode & 0o777) == (session, 0o600)
    code, _, err = await asked(running, "sessions", "export", session, "-o", str(file))
    assert (code, "replace it with --force" in err) == (1, True)
    code, _, _ = await asked(running, "sessions", "export", session, "-o", str(file), "--force", "--format", "markdown")
    assert (code, file.read_text().startswith("# Where are the quokkas?\n\n- Session: ")) == (0, True)
    code, _, err = await asked(running, "sessions", "export", "ses_none", "-o", str(tmp_path / "none"))
    assert (code, "SESSION_NOT_FOUND" in err, list(tmp_path.glob("*none*"))) == (1, True, [])


async def test_what_controls_a_terminal_is_not_printed_there(running: Serving, tmp_path: Path) -> None:
    await running.caller().create_session(title="\x1b]0;owned\x07" + "long " * 30)
    environment = [f"METAMORPH_TARGET={running.target}", f"METAMORPH_TOKEN={mint()}"]
    async with terminal(tmp_path, "env", *environment, *METAMORPH, "sessions", "list") as shown:
        assert await shown.exit_code() == 0
        heading, row = (await shown.screen())[:2]
    assert heading.split() == ["session", "active", "messages", "title"]
    assert (row.endswith("…"), len(row) <= 80, "�]0;owned" in row) == (True, True, True)


async def test_a_turn_is_cancelled_and_its_text_kept(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("Some words", "never"), hold=asyncio.Event())
    async with asking(api, tmp_path) as running:
        alice = running.caller()
        session = (await alice.create_session()).session_id
        events = alice.start(session)
        turn = (await events.next()).turn_id
        code, out, _ = await asked(running, "turns", "cancel", turn)
        assert (code, out) == (0, f"{turn} has ended: cancelled.\n")
        _, out, _ = await asked(running, "turns", "list", session, "--json")
    assert json.loads(out)["status"] == "TURN_STATUS_CANCELLED"


async def test_usage_is_added_up_by_what_is_asked_for(running: Serving) -> None:
    session = await chatted(running)
    _, out, _ = await asked(running, "usage", "--by", "day", "--by", "session", "--json")
    row, whole = map(json.loads, out.splitlines())
    assert (row["session_id"], row["turns"], whole["total"]["turns"]) == (session, "1", "1")
    code, _, err = await asked(running, "usage", "--by", "user", "--by", "label")
    assert (code, "REQUEST_INVALID" in err) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_is_printed_for_each_shell(shell: str) -> None:
    code, out, err = await run("complete", shell)
    assert (code, "_METAMORPH_COMPLETE" in out, err) == (0, True, "")


async def test_bash_completes_commands() -> None:
    code, out, _ = await run(_METAMORPH_COMPLETE="bash_complete", COMP_WORDS="metamorph sessions ex", COMP_CWORD="2")
    assert (code, out.split()) == (0, ["plain,export"])
