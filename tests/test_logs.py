"""Log lines."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest

from tests.support.caller import calling
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.tokens import SECRET, mint


async def test_each_call_logs_one_json_line_with_the_fields_of_the_guide_and_no_content(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        token = mint()
        async with calling(server.target, token, ("x-request-id", "call-1")) as alice:
            session = await alice.create_session(title="canary-title")
            await alice.send(session.session_id, "canary-text")
            await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
        server.process.terminate()
        server.process.wait(10)
    text = server.log.read_text()
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


def test_what_grpc_logs_of_a_callers_metadata_is_left_out(tmp_path: Path) -> None:
    program = """
import logging
from metamorphd.log_output import STANDARD_OUTPUT
from metamorphd.observe import configure_logging
configure_logging("info")
for message in ("Invalid encoding on key of metadata", "Another Invalid encoding on key"):
    logging.getLogger("grpc._cython.cygrpc").error(message)
STANDARD_OUTPUT.close()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in ended.stdout.splitlines()] == ["Another Invalid encoding on key"]


def refused_start(directory: Path, **environment: str) -> str:
    """Returns the output of a `metamorph serve` that does not start."""
    base = {"EMBLEM_JWT_SECRET": SECRET, "LISTEN_ADDRESS": "127.0.0.1", "PORT": "0", "GRPC_PORT": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "metamorphd", "serve"],
        env=base | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    # If a port is in use, grpc's core prints a line too.
    return ended.stderr.splitlines()[-1]


def test_a_refused_start_prints_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving_process(tmp_path) as server, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        held = tmp_path / "metamorph.db"
        for environment, expected in (
            ({"NODE_ENV": "production"}, "ANTHROPIC_API_KEY is required in production"),
            ({"EMBLEM_JWT_SECRET": ""}, "EMBLEM_JWT_SECRET is not set"),
            ({"DATABASE_PATH": str(tmp_path / "file" / "m.db")}, "cannot be opened as a SQLite database"),
            ({"DATABASE_PATH": str(held)}, "is in use by another server"),
            ({"GRPC_PORT": str(server.port)}, "for gRPC (Address already in use); set GRPC_PORT to a free one"),
            ({"PORT": port}, "set PORT to a free one"),
        ):
            message = refused_start(tmp_path, **environment)
            assert message.startswith("metamorph: "), message
            assert expected in message
