"""Figures of a server that stands still, or of which nothing was measured, are not met."""

import asyncio
import contextlib
import json
import math
import signal
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import pytest
from grpc.aio import Metadata

from harness.abuse import expensive_calls, expensive_neighbour
from harness.abuse.busy_neighbour import PACE_SECONDS, Neighbour
from harness.abuse.expensive_calls import Vault
from harness.abuse.expensive_neighbour import OPERATIONS, Measured, compared
from harness.abuse.rpcs import EARLY
from harness.abuse.subject import Subject, p99, subject
from harness.abuse.tally import Tally
from harness.figure import Figure
from harness.torture.ledger import Ledger
from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import STAMP, Reply
from tests.support.generated.layout import Layout

GAP = "longest gap in a stream, beyond the pace"
SOUND: Measured = {**{name: [20.0] * 9 for name in OPERATIONS}, "gap": [1.0], "failed": []}


def unmet(figures: Iterable[Figure]) -> set[str]:
    return {figure.detail.partition(",")[0] or figure.name for figure in figures if not figure.met}


def unmet_between(idle: Measured, attacked: Measured) -> set[str]:
    return unmet(compared(idle, attacked, floor=5, most_ratio=3, most_gap=250))


def test_the_figures_of_a_neighbour_that_was_served_are_met() -> None:
    assert unmet_between(SOUND, SOUND) == set()
    assert unmet_between(SOUND, {**SOUND, "GetSession": [61.0]}) == {"GetSession"}
    assert unmet_between(SOUND, {**SOUND, "gap": [1.0, 251.0]}) == {GAP}


@pytest.mark.parametrize("nothing", [{}, {"GetSession": []}, {"GetSession": [math.inf]}], ids=str)
def test_an_operation_that_was_not_measured_has_no_ratio(nothing: Measured) -> None:
    without = {name: of for name, of in SOUND.items() if name != "GetSession"} | nothing
    for idle, attacked in ((without, SOUND), (SOUND, without), (without, without)):
        assert unmet_between(idle, attacked) == {"GetSession"}


def test_gaps_that_were_not_measured_are_no_short_ones() -> None:
    assert unmet_between(SOUND, {**SOUND, "gap": []}) == {GAP}
    assert unmet_between(SOUND, {}) == {*OPERATIONS, GAP}


def test_the_percentile_of_nothing_is_no_number() -> None:
    assert p99([]) == math.inf


def test_totals_of_nothing_are_not_met() -> None:
    assert unmet(Tally().figures("crafted tokens")) == {"crafted tokens"}
    assert unmet(Ledger().figures()) == {"turns", "events seen", "replays compared"}


@contextlib.asynccontextmanager
async def busy(server: Subject) -> AsyncIterator[Neighbour]:
    async with server.caller() as caller:
        neighbour = Neighbour(caller)
        calling = asyncio.create_task(neighbour.busy(await neighbour.prepared()))
        yield neighbour
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await calling


async def gap_open_in(neighbour: Neighbour) -> None:
    """Returns in the middle of a stream."""
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.3)
            if json.loads(neighbour.taken()).get("gap"):
                return


async def test_calls_and_gaps_of_a_server_that_stands_still_count_as_long_as_it_does(tmp_path: Path) -> None:
    async with FakeMessagesApi(Reply((f"{STAMP.decode()} ",) * 200, delay=PACE_SECONDS, stamped=True)) as api:
        environment = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with subject(tmp_path, environment=environment) as server:
            async with busy(server) as neighbour:
                await gap_open_in(neighbour)
                began = time.monotonic()
                server.service.process.send_signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(2)
                    measured = json.loads(neighbour.taken())
                finally:
                    server.service.process.send_signal(signal.SIGCONT)
                stood = (time.monotonic() - began) * 1000
                await asyncio.sleep(0.5)
                then = json.loads(neighbour.taken())
    assert {name for name in (*OPERATIONS, "gap") if max(measured[name]) < 1500} == set()
    assert max(measured["gap"]) < stood + 500
    # What was under way counts in whole where it ends.
    assert max(then["GetSession"]) > 1500


async def test_nothing_is_measured_before_the_neighbour_is_prepared(tmp_path: Path) -> None:
    slow = Reply((f"{STAMP.decode()} ",) * 4, delay=0.5, stamped=True)
    async with FakeMessagesApi(slow) as api:
        environment = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with subject(tmp_path, environment=environment) as server:
            async with expensive_neighbour.busy(server) as neighbour:
                await neighbour.measured(0)
                measured = await neighbour.measured(0.5)
    assert [name for name in OPERATIONS if not measured.get(name)] == []


async def test_a_status_that_the_client_lost_is_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio replaces the status of a call that is answered while it still sends (grpc#36066)."""
    vault = Vault(Layout(4_000, 20).deep, "localhost:1", "token")
    lost = ("Internal error from Core", "another")

    async def make(_: Vault, __: Caller) -> None:
        if len(vault.ended) == len(lost):
            raise asyncio.CancelledError
        details = lost[len(vault.ended)]
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, Metadata(), Metadata(), details=details)

    monkeypatch.setattr(expensive_calls, "ATTACKS", {"upload": make})
    monkeypatch.setattr(expensive_calls, "PAUSE_SECONDS", 0)
    with contextlib.suppress(asyncio.CancelledError):
        await expensive_calls.attack(vault)
    assert dict(vault.ended) == {("upload", EARLY): 1, ("upload", "INTERNAL"): 1}
