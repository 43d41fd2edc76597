"""A thousand failures at random, in a real server and beside it: nothing that a caller wrote or holds is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.failing import FAILURES, TURNS, markers
from tests.support.fakes.sentry import FakeSentry
from tests.support.processes import SOURCES

SECONDS = 280


def fail(sentry: FakeSentry, directory: Path, *arguments: str) -> list[dict[str, Any]]:
    """Provokes the failures, and returns the log."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.failing", sentry.dsn, *arguments],
        env={**os.environ, "PYTHONPATH": SOURCES},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def found(sentry: FakeSentry) -> list[str]:
    """Returns the markers that are in what was received."""
    return [marker for marker in markers() if marker.encode() in sentry.received]


@pytest.mark.timeout(SECONDS + 20)
def test_of_a_thousand_failures_no_token_key_address_or_text_is_sent(sentry: FakeSentry, tmp_path: Path) -> None:
    log = fail(sentry, tmp_path)
    assert sentry.faults == []
    assert len(sentry.events) == FAILURES
    assert found(sentry) == []
    assert str(tmp_path).encode() not in sentry.received
    # Every failure is one line of the log, which has what was not sent, and leads to it.
    reported = {line["report"]: line["message"] for line in log if "report" in line}
    assert {event["event_id"] for event in sentry.events} == reported.keys()
    messages = list(reported.values())
    assert messages.count("generation failed") == TURNS
    assert messages.count("call failed") == FAILURES // 2 - TURNS
    in_log = json.dumps(log)
    # All but those whose text cannot be had.
    assert sum(marker in in_log for marker in markers()) > 0.9 * FAILURES


def test_without_the_scrubbing_the_same_failures_reveal_their_secrets(sentry: FakeSentry, tmp_path: Path) -> None:
    fail(sentry, tmp_path, "--careless")
    assert sentry.faults == []
    assert len(found(sentry)) > 0.9 * len(sentry.events) > 60
