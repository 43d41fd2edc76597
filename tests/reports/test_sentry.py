"""Reports of errors, sent to a server that speaks Sentry's protocol."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from metamorphd.errors import SessionNotFound
from metamorphd.reports.content import MOST_EXCEPTIONS, MOST_FRAMES
from metamorphd.reports.sentry import CLOSE_SECONDS, DROPPED, QUEUE_EVENTS, Reports
from structlog.testing import capture_logs

from tests.support.fakes.sentry import KEY, PROJECT, Answer, FakeSentry
from tests.support.ports import free_port
from tests.support.processes import environment_of

UUID = "8c5fd4cb-54fe-4a0e-8df0-0b2cbee5ad33"


def reports_to(dsn: str, **options: Any) -> Reports:
    return Reports(dsn=dsn, environment="staging", release="1.2.3", **options)


@pytest.fixture
def reports(sentry: FakeSentry) -> Iterator[Reports]:
    with closing(reports_to(sentry.dsn)) as made:
        yield made


def error(message: str, **fields: object) -> dict[str, Any]:
    return {"event": message, **fields}


def raised(raising: Callable[[], object]) -> Exception:
    try:
        raising()
    except Exception as exc:
        return exc
    raise AssertionError


def fail() -> None:
    raise ValueError("text")


def fail_for_a_reason() -> None:
    try:
        fail()
    except ValueError as exc:
        raise SessionNotFound(session_id="text") from exc


def recurse(depth: int = 300) -> None:
    if depth:
        recurse(depth - 1)
    raise OSError(28, "text", "/text")


def chain(length: int = 30) -> None:
    try:
        if length:
            chain(length - 1)
    finally:
        raise RuntimeError("text")


def test_an_event_has_what_is_known_to_be_code_and_nothing_else(sentry: FakeSentry, reports: Reports) -> None:
    fields = {"endpoint": "/a.B/C", "call_id": UUID, "vaultId": "text", "userId": "text", "fault": "text"}
    line = reports(None, "exception", error("it failed", exc_info=raised(fail_for_a_reason), **fields))
    sentry.wait(events=1)
    (event,) = sentry.events
    assert {"event_id": line["report"], "level": "error", "message": "it failed"}.items() <= event.items()
    assert (event["release"], event["environment"], event["logger"]) == ("1.2.3", "staging", "metamorphd")
    assert event["tags"] == {"method": "/a.B/C", "call_id": UUID, "reason": "SESSION_NOT_FOUND"}
    inner, outer = event["exception"]["values"]
    assert (inner["type"], inner["module"], inner["value"]) == ("ValueError", "builtins", "")
    assert (outer["type"], outer["value"]) == ("SessionNotFound", "no session {session_id}")
    assert outer["mechanism"] == {"type": "logging", "handled": True, "exception_id": 0}
    chained = {"type": "chained", "handled": True, "exception_id": 1, "parent_id": 0, "source": "__cause__"}
    assert inner["mechanism"] == chained
    frames = outer["stacktrace"]["frames"]
    assert [frame["function"] for frame in frames] == ["raised", "fail_for_a_reason"]
    assert frames[-1].keys() == {"module", "filename", "function", "lineno", "in_app"}
    assert "text" not in sentry.received.decode()
    assert {"user", "request", "breadcrumbs", "contexts", "modules", "threads"} & event.keys() == set()
    assert socket.gethostname() not in sentry.received.decode()


@pytest.mark.parametrize(
    ("call_id", "sent"),
    [
        (UUID, True),
        ("0123456789abcdef-1f", True),
        ("sk-ant-api03-abcdef", False),
        ("eyJhbGciOiJIUzI1NiJ9.e30.abc", False),
        ("00112233445566778899aabbccddeeff", False),
    ],
)
def test_a_call_id_is_sent_if_it_cannot_be_a_secret(
    sentry: FakeSentry, reports: Reports, call_id: str, sent: bool
) -> None:
    reports(None, "error", error("call failed", call_id=call_id))
    sentry.wait(events=1)
    assert ("call_id" in sentry.events[0]["tags"], call_id in sentry.received.decode()) == (sent, sent)


def test_long_traces_and_chains_are_cut_and_the_innermost_frames_stay(sentry: FakeSentry, reports: Reports) -> None:
    reports(None, "error", error("one", exc_info=raised(recurse)))
    reports(None, "error", error("two", exc_info=raised(chain)))
    group = ExceptionGroup("text", [ValueError("text")] + [OSError(2, "text") for _ in range(100)])
    reports(None, "error", error("three", exc_info=group))
    sentry.wait(events=3)
    (deep,), chained, grouped = (event["exception"]["values"] for event in sentry.events)
    assert [frame["function"] for frame in deep["stacktrace"]["frames"]] == ["recurse"] * MOST_FRAMES
    assert deep["value"] == "ENOSPC"
    assert len(chained) == len(grouped) == MOST_EXCEPTIONS
    assert grouped[-1]["mechanism"]["is_exception_group"]
    assert grouped[-2]["mechanism"]["source"] == "exceptions[0]"


def test_errors_and_traces_are_reported_and_other_lines_are_not(sentry: FakeSentry, reports: Reports) -> None:
    for method in ("debug", "info", "warning"):
        assert "report" not in reports(None, method, error(method))
    assert "report" in reports(None, "warning", error("with a trace", exc_info=raised(fail)))
    assert "report" in reports(None, "critical", error("damaged", fault="text"))
    assert "report" in reports(None, "error", error("text", logger="a.library"))
    sentry.wait(events=3)
    levels = [(event["level"], event["logger"], event["message"]) for event in sentry.events]
    assert levels == [
        ("warning", "metamorphd", "with a trace"),
        ("fatal", "metamorphd", "damaged"),
        ("error", "a.library", "logged by a library"),
    ]


def test_the_same_error_a_thousand_times_is_one_event(sentry: FakeSentry) -> None:
    seconds = [0.0]
    with closing(reports_to(sentry.dsn, now=lambda: seconds[0])) as reports:
        lines = [reports(None, "error", error("again", exc_info=raised(fail))) for _ in range(1_000)]
        # Another place, and another message.
        reports(None, "error", error("again", exc_info=raised(recurse)))
        reports(None, "error", error("other", exc_info=raised(fail)))
        sentry.wait(events=3)
        seconds[0] = 60.0
        reports(None, "error", error("again", exc_info=raised(fail)))
    assert [event["extra"]["left_out_before"] for event in sentry.events] == [0, 0, 0, 999]
    assert sum("report" in line for line in lines) == 1


def test_a_sentry_that_asks_for_fewer_is_left_alone_until_it_is_time(sentry: FakeSentry, reports: Reports) -> None:
    sentry.script.append(Answer(429, {"Retry-After": "2"}))
    with capture_logs() as log:
        reports(None, "error", error("one"))
        sentry.wait(requests=1)
        time.sleep(0.2)
        reports(None, "error", error("two"))
        time.sleep(2.2)
        reports(None, "error", error("three"))
        sentry.wait(events=1)
    assert [event["message"] for event in sentry.events] == ["three"]
    assert sentry.requests == 2
    assert log == []


def test_a_sentry_that_refuses_is_said_in_the_log_once(sentry: FakeSentry) -> None:
    dsn = sentry.dsn.replace(KEY, "f" * 32)
    with capture_logs() as log, closing(reports_to(dsn)) as reports:
        reports(None, "error", error("one"))
        reports(None, "error", error("two"))
        sentry.wait(requests=2)
    assert [(line["event"], line["why"]) for line in log] == [(DROPPED, "status_400")]


def test_a_sentry_that_is_not_there_is_said_in_the_log() -> None:
    with capture_logs() as log, closing(reports_to(f"http://{KEY}@127.0.0.1:{free_port()}/{PROJECT}")) as reports:
        reports(None, "error", error("one"))
    assert [(line["event"], line["why"]) for line in log] == [(DROPPED, "network")]


def test_a_sentry_that_does_not_answer_delays_nobody_and_not_the_end(sentry: FakeSentry) -> None:
    sentry.default = Answer(silent_seconds=5)
    minutes = iter(range(0, 10**6, 60))
    reports = reports_to(sentry.dsn, now=lambda: float(next(minutes)))
    events = 4 * QUEUE_EVENTS
    with capture_logs() as log:
        began = time.monotonic()
        for number in range(events):
            reports(None, "error", error(f"number {number}"))
        assert time.monotonic() - began < 5
        began = time.monotonic()
        reports.close()
        assert time.monotonic() - began < CLOSE_SECONDS + 0.5
    # Further ones did not wait, nor take memory.
    assert (DROPPED, "full_queue") in [(line["event"], line["why"]) for line in log]
    assert sentry.events == []


CHILD = """
import asyncio, contextlib, http.client, logging, sys, threading
import metamorphd.process, metamorphd.cli.serve
from metamorphd.log_output import STANDARD_OUTPUT
from metamorphd.observe import configure_logging
assert "sentry_sdk" not in sys.modules
def patchable():
    return http.client.HTTPConnection.putrequest, threading.Thread.start, threading.Thread.run, sys.excepthook
before = patchable()
from metamorphd.reports.sentry import Reports
with contextlib.closing(Reports(dsn=sys.argv[1], environment="e", release="r")) as reports:
    configure_logging("info", reports)
    assert before == patchable()
    def fail():
        raise ValueError("canary")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    async def main():
        task = asyncio.create_task(asyncio.to_thread(fail))
        await asyncio.wait({task})
    asyncio.run(main())
    logging.getLogger("a.library").error("canary")
STANDARD_OUTPUT.close()
"""


def test_errors_of_threads_tasks_and_libraries_are_reported_and_nothing_is_patched(
    sentry: FakeSentry, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, sentry.dsn], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    reported = [(event["logger"], event["message"], "exception" in event) for event in sentry.events]
    assert reported == [
        ("metamorphd", "a thread failed", True),
        ("asyncio", "logged by a library", True),
        ("a.library", "logged by a library", False),
    ]
    assert b"canary" not in sentry.received


def test_an_error_that_ends_the_server_is_logged_and_reported_before_the_process_ends(
    sentry: FakeSentry, tmp_path: Path
) -> None:
    program = """
from metamorphd.settings import loading
from metamorphd.cli.serve import logged
with logged(loading.load()):
    raise ValueError("canary")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment_of(tmp_path), "SENTRY_DSN": sentry.dsn},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, "ValueError: canary")
    (line,) = map(json.loads, ended.stdout.splitlines())
    (event,) = sentry.events
    assert (line["message"], line["level"], line["report"]) == ("the server failed", "critical", event["event_id"])
    assert (event["message"], event["level"], event["environment"]) == ("the server failed", "fatal", "development")
    assert b"canary" not in sentry.received


def test_a_refused_start_is_not_an_error(sentry: FakeSentry, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "metamorphd", "serve"],
        env={**os.environ, **environment_of(tmp_path), "SENTRY_DSN": sentry.dsn, "DATABASE_PATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, sentry.requests) == (1, "", 0)
