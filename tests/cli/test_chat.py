"""`metamorph chat`, run as a process."""

import asyncio
import json
import shlex
from pathlib import Path

import pytest

from tests.support.caller import Events, text_of
from tests.support.certificates import Authority
from tests.support.command import METAMORPH, run
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving, asking, serving
from tests.support.tokens import mint
from tests.support.turns import cancel, stream


async def test_a_message_gets_a_reply_and_the_session_can_be_continued(running: Serving) -> None:
    reach = ["chat", "--target", running.target, "--token", mint()]
    code, out, err = await run(*reach, "Good morning")
    assert code == 0
    session = err.split("--session ")[1].strip()
    alice = running.caller()
    stored = await alice.messages(session)
    assert [text_of(message) for message in stored] == ["Good morning", out.strip()]
    assert "tokens in" in err
    code, _, _ = await run(*reach, "--session", session, typed="And again\n")
    assert code == 0
    assert text_of((await alice.messages(session))[2]) == "And again"


async def test_target_and_token_can_come_from_the_environment(running: Serving) -> None:
    code, out, _ = await run("chat", "--json", "Hi", METAMORPH_TARGET=running.target, METAMORPH_TOKEN=mint())
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["turn_finished"]["status"] == "TURN_STATUS_COMPLETED"


async def test_a_server_with_tls_can_be_talked_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    async with serving(tmp_path / "server", grpc_tls_cert=str(certificate), grpc_tls_key=str(key)) as running:
        reach = ["chat", "--target", running.target, "--token", mint()]
        code, out, _ = await run(*reach, "--ca", str(authority.certificate), "Hi")
        assert (code, bool(out.strip())) == (0, True)


async def test_in_dev_mode_the_vault_can_be_given_or_come_from_the_environment(tmp_path: Path) -> None:
    async with serving(tmp_path / "dev", emblem_dev_mode=True) as running:
        reach = ["chat", "--target", running.target]
        for arguments, environment in (
            (["--vault", "given"], {}),
            ([], {"METAMORPH_VAULT": "environment"}),
            (["--vault", "given"], {"METAMORPH_VAULT": "other"}),
        ):
            code, _, err = await run(*reach, *arguments, "Hi", **environment)
            assert code == 0, err
        assert [len(await running.caller(vault=vault).sessions()) for vault in ("given", "environment", "other")] == [
            2,
            1,
            0,
        ]


async def test_a_dropped_connection_loses_none_of_the_reply(running: Serving) -> None:
    async with CuttingProxy(running.server.grpc_port) as proxy:
        talking = asyncio.create_task(run("chat", "--target", proxy.target, "--token", mint(), "Hi"))
        alice = running.caller()
        async with asyncio.timeout(30):
            await proxy.connected.wait()
        # The reply takes a second, so this is about the middle of it.
        await asyncio.sleep(0.5)
        proxy.cut()
        code, out, err = await talking
    assert code == 0
    assert "Trying again after " in err
    (session,) = await alice.sessions()
    assert out.strip() == text_of((await alice.messages(session.session_id))[1])


async def test_what_a_cancelled_reply_has_used_at_most_is_shown(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("word " * 2400, "end"), hold=asyncio.Event())
    async with asking(api, tmp_path / "asking") as running:
        talking = asyncio.create_task(run("chat", "--target", running.target, "--token", mint(), "Hi"))
        await api.until_answering()
        alice = running.caller()
        (session,) = await alice.sessions()
        (turn_id,) = session.running_turn_ids
        events = Events(stream(alice, turn_id))
        while not (await events.next()).HasField("text_delta"):
            pass
        await cancel(alice, turn_id)
        code, _, err = await talking
        assert code == 1
        shown = "At most 11 tokens in, 12,000 out, 5 read from cache, 3 written to cache, $0.12 (estimated) CANCELLED"
        assert f"{shown} Continue" in " ".join(err.split())


async def test_a_reply_that_the_model_declines_says_so(tmp_path: Path, api: FakeMessagesApi) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    api.default = Reply((), stop_reason="refusal", stop_details=details)
    async with asking(api, tmp_path) as running:
        code, _, err = await run("chat", "--target", running.target, "--token", mint(), "Hi")
    assert code == 0
    assert "The model declined to reply: cyber: Not this." in err


async def test_a_reply_that_was_cut_off_says_so(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(("Some words",), stop_reason="max_tokens")
    async with asking(api, tmp_path) as running:
        code, out, err = await run("chat", "--target", running.target, "--token", mint(), "Hi")
    assert (code, out.strip()) == (0, "Some words")
    assert "The reply was cut off: it has as many tokens as it may" in err


async def test_a_cost_that_would_be_shown_as_nothing_is_not(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path / "asking") as running:
        _, _, err = await run("chat", "--target", running.target, "--token", mint(), "Hi")
    assert "11 tokens in, 3 out, 5 read from cache, 3 written to cache, $0.00006\n" in err
    assert "At most" not in err


@pytest.mark.parametrize(
    ("arguments", "ended", "expected"),
    [
        (["--token", "nonsense"], 4, "TOKEN_INVALID: the token is invalid (pass --token"),
        (["--token", mint(), "--session", "ses_none"], 1, "SESSION_NOT_FOUND: no session ses_none"),
    ],
)
async def test_a_refusal_prints_one_line_with_the_remedy(
    running: Serving, arguments: list[str], ended: int, expected: str
) -> None:
    code, out, err = await run("chat", "--target", running.target, *arguments, "Hi")
    assert (code, out) == (ended, "")
    assert expected in err
    assert len(err.splitlines()) == 1


async def test_an_unreachable_server_prints_one_line(unused_tcp_port: int) -> None:
    code, _, err = await run("chat", "--target", f"127.0.0.1:{unused_tcp_port}", "Hi")
    assert code == 3
    assert "is a server running?" in err
    assert "Traceback" not in err


async def test_empty_standard_input_is_refused(tmp_path: Path) -> None:
    code, _, err = await run("chat", typed="  \n")
    assert code == 2
    assert "standard input is empty" in err


async def test_endless_standard_input_is_refused() -> None:
    process = await asyncio.create_subprocess_shell(
        f"yes | {shlex.join(METAMORPH)} chat", stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, b"standard input has more than 32 MiB" in err) == (2, True)


async def test_a_session_that_was_made_for_a_refused_message_is_deleted(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path, max_content_bytes=20) as running:
        reach = ["chat", "--target", running.target, "--token", mint()]
        code, _, err = await run(*reach, "A message of more than twenty bytes")
        assert (code, len(err.splitlines())) == (1, 1)
        assert err.startswith("Error: CONTENT_TOO_LARGE: ")
        assert await running.caller().sessions() == []
        code, _, err = await run(*reach, "A short one")
        (session,) = await running.caller().sessions()
        code, _, _ = await run(*reach, "--session", session.session_id, "A message of more than twenty bytes")
        assert code == 1
        assert [each.session_id for each in await running.caller().sessions()] == [session.session_id]


async def test_a_session_that_cannot_be_deleted_is_named(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path, max_content_bytes=20) as running:
        for permissions in (["read", "write"], ["write"]):
            token = mint(user=permissions[0], permissions=permissions)
            code, _, err = await run(
                "chat", "--target", running.target, "--token", token, "A message of more than twenty bytes"
            )
            session = (await running.caller().sessions())[0]
            assert (code, session.creator, session.message_count) == (1, permissions[0], 0)
            note, refusal = err.splitlines()
            assert note == f"Session {session.session_id} stays without a message: the token may not delete it."
            assert refusal.startswith("Error: CONTENT_TOO_LARGE: ")
