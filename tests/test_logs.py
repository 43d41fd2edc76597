"""Log lines."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
from metamorph.chat.v1.chat_service_pb2 import GetSessionRequest

from tests.chat.test_lifecycle import serving_process
from tests.serving import SECRET, Caller, mint, refused


async def test_each_call_is_one_json_line_with_the_guides_fields_and_no_content(tmp_path: Path) -> None:
    with serving_process(tmp_path) as (process, target):
        async with grpc.aio.insecure_channel(target) as channel:
            token = mint()
            alice = Caller(channel, [("authorization", f"Bearer {token}"), ("x-request-id", "call-1")])
            session = await alice.create_session(title="canary-title")
            await alice.send(session.session_id, "canary-text")
            await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
        process.terminate()
        process.wait(10)
    text = next(tmp_path.glob("*.log")).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"level", "message", "timestamp"} <= line.keys() for line in lines)
    calls = [line for line in lines if line["message"] == "call"]
    assert [(line["endpoint"].rpartition("/")[2], line["code"]) for line in calls] == [
        ("CreateSession", "OK"),
        ("SendMessage", "OK"),
        ("GetSession", "NOT_FOUND"),
    ]
    assert all((line["vaultId"], line["userId"], line["call_id"]) == ("acme", "alice", "call-1") for line in calls)
    assert all(isinstance(line["duration"], float) for line in calls)
    assert calls[2]["reason"] == "SESSION_NOT_FOUND"
    turns = [line for line in lines if line["message"] == "turn finished"]
    assert [line["status"] for line in turns] == ["COMPLETED"]
    for secret in ("canary", token, SECRET):
        assert secret not in text


def test_what_keeps_the_server_from_starting_is_one_line(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "metamorphd", "serve"],
        env={"NODE_ENV": "production", "EMBLEM_JWT_SECRET": SECRET},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == (
        "metamorph: ANTHROPIC_API_KEY is not set; production needs it, set it to a Claude API key\n"
    )
