"""The values of the metrics."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import (
    CancelTurnRequest,
    CountTokensRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from metamorphd.metrics import Counter, Gauges, Histogram, Metrics
from prometheus_client import generate_latest

from tests.support.caller import Caller, send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Count, Refusal, Reply
from tests.support.refusal import refused
from tests.support.scraping import Scrape, scrape
from tests.support.serving import Serving, replies_from, serving
from tests.support.turns import titled
from tests.support.usage import allow, usage

MODEL = "claude-sonnet-5-5"
TITLE_MODEL = "claude-haiku-5-5"


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api)


async def test_turns_are_counted_by_status_and_reason(running: Serving, alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("One",)), Refusal(529, "overloaded_error"), Reply(("a", "b"), hold=asyncio.Event())])
    await alice.send(session.session_id)
    await alice.send(session.session_id)
    call = alice.start(session.session_id)
    turn_id = (await call.next()).turn_id
    await call.next()
    await alice.chat.CancelTurn(CancelTurnRequest(turn_id=turn_id), metadata=alice.metadata)
    page = await scrape(running)
    assert page.by("metamorph_turns_total", "status", "reason") == {
        ("COMPLETED", ""): 1,
        ("FAILED", "UPSTREAM_OVERLOADED"): 1,
        ("CANCELLED", ""): 1,
    }
    assert page.sum("metamorph_turn_duration_seconds_count") == 3
    # A failed turn has no reply that could begin.
    assert page.by("metamorph_first_token_seconds_count", "model") == {(MODEL,): 2}
    assert page.by("metamorph_upstream_calls_total", "operation", "result") == {
        ("generate", "OK"): 1,
        ("generate", "UPSTREAM_OVERLOADED"): 1,
        ("generate", "ABANDONED"): 1,
    }
    assert page.sum("metamorph_upstream_duration_seconds_count", operation="generate") == 3
    assert page.sum("metamorph_upstream_first_event_seconds_count") == 2


async def test_the_first_token_is_timed_when_it_comes_not_when_the_reply_ends(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    api.default = Reply(("a", "b"), delay=0.3)
    await alice.send(session.session_id)
    page = await scrape(running)
    first, whole = (page.sum(f"metamorph_{name}_seconds_sum") for name in ("first_token", "turn_duration"))
    assert 0.3 <= first <= whole - 0.25
    assert page.sum("metamorph_upstream_duration_seconds_sum") > page.sum("metamorph_upstream_first_event_seconds_sum")


async def test_tokens_and_cost_are_those_that_the_vaults_are_charged(api: FakeMessagesApi, tmp_path: Path) -> None:
    async with serving(tmp_path, session_title_model=TITLE_MODEL, **replies_from(api)) as running:
        callers = running.caller(), running.caller(vault="other", user="bob")
        api.default = Reply(("Owls.",))
        for caller in callers:
            session = await caller.create_session()
            await caller.send(session.session_id)
            await titled(caller, session.session_id)
        used = [(await usage(caller)).total.usage for caller in callers]
        page = await scrape(running)
    for kind in ("input", "output", "cache_read", "cache_write"):
        assert page.sum("metamorph_tokens_total", kind=kind) == sum(getattr(one, f"{kind}_tokens") for one in used)
    assert page.sum("metamorph_cost_usd_total") == pytest.approx(sum(one.cost_usd_nanos for one in used) / 1e9)
    assert set(page.by("metamorph_cost_usd_total", "model")) == {(MODEL,), (TITLE_MODEL,)}


async def test_what_a_deleted_turn_has_used_is_counted_and_an_ended_one_only_once(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    call = alice.start(session.session_id)
    await call.next()
    await call.next()
    await alice.chat.DeleteSession(DeleteSessionRequest(session_id=session.session_id), metadata=alice.metadata)
    await refused(call.rest())
    async with asyncio.timeout(10):
        while not (used := (await usage(alice)).total.usage).output_tokens:  # noqa: ASYNC110, it is in another place
            await asyncio.sleep(0.02)
    page = await scrape(running)
    assert page.sum("metamorph_tokens_total", kind="output") == used.output_tokens
    assert page.sum("metamorph_cost_usd_total") == pytest.approx(used.cost_usd_nanos / 1e9)
    assert page.sum("metamorph_turns_total") == 0


async def test_turns_that_a_stop_cuts_off_are_counted_where_they_end(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    async with serving(tmp_path, **replies_from(api)) as running:
        alice = running.caller()
        session = await alice.create_session()
        call = alice.start(session.session_id)
        await call.next()
        await running.server.stop(grace_seconds=0)
        page = Scrape(generate_latest(running.server.registry).decode())
    assert page.by("metamorph_turns_total", "status", "reason") == {("INTERRUPTED", "TURN_INTERRUPTED"): 1}


async def test_refusals_are_counted_by_reason_and_begin_at_zero(running: Serving, alice: Caller) -> None:
    before = await scrape(running)
    assert 'metamorph_refusals_total{reason="BUDGET_EXCEEDED"} 0.0' in before.text
    assert 'reason="UNSPECIFIED"' not in before.text
    session = await alice.create_session()
    await alice.send(session.session_id)
    await allow(alice, tokens_per_day=1)
    await refused(alice.send(session.session_id))
    await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
    refusals = (await scrape(running)).by("metamorph_refusals_total", "reason")
    assert refusals == {("BUDGET_EXCEEDED",): 1, ("SESSION_NOT_FOUND",): 1}


async def test_counts_of_tokens_are_calls_to_the_provider_too(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    api.script.extend([Count(7), Refusal(401, "authentication_error")])
    request = CountTokensRequest(message=send_request(session.session_id))
    await alice.chat.CountTokens(request, metadata=alice.metadata)
    await refused(alice.chat.CountTokens(request, metadata=alice.metadata))
    calls = (await scrape(running)).by("metamorph_upstream_calls_total", "operation", "result")
    assert calls == {("count_tokens", "OK"): 1, ("count_tokens", "UPSTREAM_UNAUTHENTICATED"): 1}


def uncommitted(page: Scrape) -> float:
    """Returns how many operations have waited for the writer, less those that were committed."""
    return page.sum("metamorph_write_wait_seconds_count") - page.sum("metamorph_commit_operations_sum")


async def test_commits_and_waits_are_measured(running: Serving, alice: Caller) -> None:
    before = await scrape(running)
    await asyncio.gather(*(alice.create_session() for _ in range(20)))
    await alice.sessions()
    for _ in range(200):
        after = await scrape(running)
        # An operation of the housekeeping may have begun and not be committed yet.
        if not uncommitted(after):
            break
        await asyncio.sleep(0.05)

    def more(name: str) -> float:
        return after.sum(name) - before.sum(name)

    assert uncommitted(after) == 0
    assert more("metamorph_commit_operations_sum") >= 20
    assert more("metamorph_commit_duration_seconds_count") == more("metamorph_commit_operations_count") >= 1
    assert more("metamorph_read_wait_seconds_count") >= 1


async def test_sizes_the_process_and_the_build_are_there(running: Serving) -> None:
    page = await scrape(running)
    assert page.sum("metamorph_database_bytes") > 0
    assert page.sum("metamorph_volume_bytes") > page.sum("metamorph_disk_free_bytes") > 0
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
        assert page.sum(f"process_{name}") > 0
    assert page.by("metamorph_build_info", "model_source") == {("claude",): 1}


async def test_no_label_names_a_vault_a_user_or_an_id_and_no_series_says_when_it_was_created(
    running: Serving, alice: Caller, mallory: Caller
) -> None:
    for caller in (alice, mallory):
        session = await caller.create_session(title="canary")
        await caller.send(session.session_id)
    page = await scrape(running)
    allowed = {"method", "code", "reason", "status", "model", "kind", "operation", "result", "le"}
    allowed |= {"version", "python", "model_source"}
    assert {label for sample in page.samples for label in sample.labels} == allowed
    for word in ("acme", "evil", "alice", "mallory", "canary", session.session_id, "_created"):
        assert word not in page.text


async def test_every_metric_says_what_it_is(running: Serving) -> None:
    families = (await scrape(running)).families
    assert [name for name, family in families.items() if not family.documentation or family.type == "unknown"] == []
    assert {name.partition("_")[0] for name in families} == {"metamorph", "process"}


def broken() -> float:
    raise OSError("the volume is gone")


def test_a_figure_that_cannot_be_read_is_left_out_and_hides_no_other() -> None:
    metrics = Metrics()
    metrics.register(Gauges({"metamorph_a": ("A", broken), "metamorph_b": ("B", lambda: 2)}))
    page = Scrape(generate_latest(metrics.registry).decode())
    assert page.by("metamorph_b") == {(): 2}
    assert page.families["metamorph_a"].samples == []


def test_values_are_counted_in_the_first_bucket_that_holds_them() -> None:
    histogram = Histogram("metamorph_sizes", "Sizes", "kind", bounds=(1, 2))
    for value in (1, 1.5, 2, 9):
        histogram.of("x").add(value)
    histogram.of("unused")
    counter = Counter("metamorph_things", "Things", "kind")
    counter.add("none", amount=0)
    metrics = Metrics()
    metrics.register(histogram, counter)
    page = Scrape(generate_latest(metrics.registry).decode())
    assert page.by("metamorph_sizes_bucket", "kind", "le") == {("x", "1.0"): 1, ("x", "2.0"): 3, ("x", "+Inf"): 4}
    assert page.by("metamorph_sizes_sum", "kind") == {("x",): 13.5}
    assert 'metamorph_things_total{kind="none"} 0.0' in page.text
