"""What is reported of an error of the database itself."""

from pathlib import Path

import apsw

from tests.support.caller import calling
from tests.support.fakes.sentry import FakeSentry
from tests.support.processes import serving_process
from tests.support.refusal import refused


async def test_an_internal_error_of_the_server_is_reported_with_its_method_and_call(tmp_path: Path) -> None:
    with FakeSentry() as sentry:
        environment = {"SENTRY_DSN": sentry.dsn, "SENTRY_ENVIRONMENT": "production-eu"}
        with serving_process(tmp_path, **environment) as server:
            breaker = apsw.Connection(str(tmp_path / "metamorph.db"))
            # The server writes by itself, too.
            breaker.set_busy_timeout(5000)
            breaker.execute("ALTER TABLE sessions RENAME TO elsewhere")
            breaker.close()
            async with calling(server.target) as alice:
                refusal = await refused(alice.create_session(title="canary"))
            assert refusal.reason == "INTERNAL"
            # The last event is sent before the process ends.
            server.process.terminate()
            server.process.wait(20)
        failed = next(event for event in sentry.events if event["message"] == "call failed")
        call_id = refusal.request.request_id
        assert failed["tags"] == {"method": "/metamorph.chat.v1.ChatService/CreateSession", "call_id": call_id}
        assert (failed["environment"], failed["release"]) == ("production-eu", "0.1.0")
        (exception,) = failed["exception"]["values"]
        assert (exception["module"], exception["type"], exception["value"]) == ("apsw", "SQLError", "")
        assert exception["stacktrace"]["frames"][0]["module"] == "metamorphd.edge.pipeline"
        assert exception["stacktrace"]["frames"][0]["in_app"]
        assert b"canary" not in sentry.received
        assert f'"report":"{failed["event_id"]}"' in server.log.read_text()
