"""What a server with telemetry sends and logs, as a process, and what one without it is spared."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest

from tests.support.caller import calling, upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.otlp_receiver import OtlpReceiver
from tests.support.fakes.replies import Refusal, Reply
from tests.support.media import FILES
from tests.support.paths import ROOT
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.tokens import SECRET, mint
from tests.support.tools import ASKS, WEATHER

CHAT = "metamorph.chat.v1.ChatService"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Of what a caller, a user, a model or an operator writes, and nobody else may read.
CANARY = "canary"


async def test_nothing_that_anybody_has_written_is_sent_and_log_lines_name_their_trace(
    api: FakeMessagesApi, tmp_path: Path
) -> None:
    token = mint(email=f"{CANARY}@example.com", user=f"{CANARY}-user@example.com")
    api.script.extend([Reply((f"{CANARY} said",)), Refusal(400, "invalid_request_error", message=CANARY), ASKS])
    async with OtlpReceiver(authorization=f"Bearer {CANARY}-key") as receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{CANARY}-key",
            "OTEL_TRACES_SAMPLER_ARG": "1",
            "ANTHROPIC_API_KEY": f"sk-ant-{CANARY}",
            "ANTHROPIC_BASE_URL": api.base_url,
            "ANTHROPIC_MAX_RETRIES": "0",
        }
        with serving_process(tmp_path, **environment) as server:
            async with calling(server.target, token) as alice:
                session = await alice.create_session(title=CANARY, system_prompt=CANARY)
                for _ in range(3):
                    await alice.send(session.session_id, CANARY, tools=[WEATHER], stop_sequences=[f"{CANARY}!"])
                headers = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-request-id", "call-7"))
                wrong = GetSessionRequest(session_id=CANARY)
                await refused(alice.chat.GetSession(wrong, metadata=(*alice.metadata, *headers)))
                data = FILES["image/png"] + CANARY.encode()
                await alice.chat.UploadAttachment(iter(upload_requests(data)), metadata=alice.metadata)
            async with calling(server.target, f"{CANARY}-token") as stranger:
                await refused(stranger.chat.GetSession(wrong, metadata=stranger.metadata))
            server.process.terminate()
            await asyncio.to_thread(server.process.wait, 20)
            lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert len(receiver.named("invoke_agent")) == 3
    assert len(receiver.bodies) > 1
    for body in receiver.bodies:
        for secret in (CANARY, token, SECRET, "weather", "Paris"):
            assert secret.encode() not in body
    found = {(span.name, span.trace_id, span.span_id) for span in receiver.spans}
    calls = [line for line in lines if line["message"] == "call"]
    assert {(line["endpoint"][1:], line["trace_id"], line["span_id"]) for line in calls} <= found
    assert [line["trace_id"] for line in calls if line["call_id"] == "call-7"] == [TRACE]
    turns = [line for line in lines if line["message"] == "turn finished"]
    assert {("invoke_agent", line["trace_id"], line["span_id"]) for line in turns} <= found
    assert len(turns) == 3


def test_a_server_without_a_receiver_imports_nothing_of_it(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from metamorphd import server
from metamorphd.settings.server import Settings
for endpoint in (None, "http://127.0.0.1:4318"):
    given = Settings(
        emblem_dev_mode=True, listen_address="127.0.0.1", database_path=Path("m.db"),
        otel_exporter_otlp_endpoint=endpoint,
    )
    server.Server(given)
    print(any(name.partition(".")[0] == "opentelemetry" for name in sys.modules))
"""
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": f"{ROOT / 'server'}:{ROOT / 'clients' / 'python'}"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


async def test_calls_that_are_not_recorded_have_no_trace_in_the_log(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with calling(server.target) as alice:
            await alice.send((await alice.create_session()).session_id)
        server.process.terminate()
        server.process.wait(20)
        assert "trace_id" not in server.log.read_text()
