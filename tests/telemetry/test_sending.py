"""A receiver that is slow, gone or hostile, and the server that goes on."""

import asyncio
import contextlib
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from metamorphd.metrics import Counter
from metamorphd.telemetry import otlp, sending
from metamorphd.telemetry.otlp import Otlp
from metamorphd.telemetry.sending import Batch, Sender
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.responses import RedirectResponse, Response, StreamingResponse
from structlog.testing import CapturingLogger

from tests.support.fakes.otlp_receiver import OtlpReceiver, traced
from tests.support.ports import free_port
from tests.support.scraping import scrape
from tests.support.serving import serving

METHOD = "/metamorph.chat.v1.ChatService/GetSession"
SPAN = METHOD[1:]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    logger = CapturingLogger()
    monkeypatch.setattr(sending, "logger", logger)
    return logger


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes what takes seconds take less."""
    monkeypatch.setattr(sending, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(otlp, "SPAN_SECONDS", 0.05)


def telemetry(endpoint: str, **overrides: Any) -> Otlp:
    given: dict[str, Any] = {"headers": {}, "resource": {}, "share": 1.0, "sends_metrics": False}
    return Otlp(endpoint=endpoint, **(given | overrides))


def dropped(of: Otlp) -> float:
    """Returns the spans that were dropped."""
    (collector,) = of.collectors
    (family,) = collector.collect()
    return sum(sample.value for sample in family.samples if sample.labels["signal"] == "traces")


def call(of: Otlp, count: int = 1) -> None:
    for _ in range(count):
        of.call(METHOD, []).end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110, it is in another task
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening(answer: Callable[[asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """Yields the URL of a server that reads a request's head and then does what `answer` does."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()


async def test_spans_arrive_while_the_server_runs_and_the_rest_when_it_stops(receiver: OtlpReceiver) -> None:
    async with telemetry(receiver.url) as sent:
        call(sent)
        await receiver.until(SPAN)
        call(sent, count=600)
    assert len(receiver.named(SPAN)) == 601
    assert dropped(sent) == 0


async def test_headers_are_sent_and_a_refusal_is_not_tried_again(log: CapturingLogger) -> None:
    async with OtlpReceiver(authorization="Bearer key") as receiver:
        async with telemetry(f"{receiver.url}/", headers={"authorization": "Bearer key"}) as sent:
            call(sent)
            await receiver.until(SPAN)
        async with telemetry(receiver.url, headers={"authorization": "Bearer other"}) as refused:
            call(refused, count=3)
            await until(lambda: dropped(refused) == 3)
            (finding,) = refused.findings()
        assert "status 401" in str(finding)
    (warning,) = log.calls
    assert (warning.method_name, warning.kwargs["error"]) == ("warning", "status 401")
    assert "other" not in repr(warning)


async def test_a_busy_receiver_is_tried_again(receiver: OtlpReceiver, log: CapturingLogger) -> None:
    answers = [503, 429]
    receiver.answer = lambda: Response(status_code=answers.pop(), headers={"retry-after": "0"})
    async with telemetry(receiver.url) as sent:
        call(sent)
        await until(lambda: not answers)
        receiver.answer = None
        await receiver.until(SPAN)
        (finding,) = sent.findings()
    assert finding.remedy == ""
    assert dropped(sent) == 0
    assert [each.method_name for each in log.calls] == ["warning", "info"]


async def test_how_long_a_receiver_asks_to_wait_has_a_limit(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LONGEST_WAIT", 0.01)
    receiver.answer = lambda: Response(status_code=503, headers={"retry-after": "9" * 4000})
    async with telemetry(receiver.url) as sent:
        call(sent)
        await until(lambda: dropped(sent) == 1)
    assert len(receiver.signals) <= 2 * sending.ATTEMPTS


async def test_what_a_receiver_says_that_it_rejected_counts(receiver: OtlpReceiver) -> None:
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 2
    async with telemetry(receiver.url) as sent:
        await until(lambda: bool(receiver.signals))
        receiver.answer = lambda: Response(partial.SerializeToString(), media_type="application/x-protobuf")
        call(sent, count=5)
        await until(lambda: dropped(sent) == 2)
        # It cannot have rejected more than it got, and an answer of another kind says of nothing that it was.
        partial.partial_success.rejected_spans = 1_000_000
        call(sent, count=5)
        await until(lambda: dropped(sent) == 7)
        receiver.answer = lambda: Response(b"fine", media_type="text/plain")
        call(sent)
    assert dropped(sent) == 7


async def test_a_span_that_cannot_be_encoded_takes_no_others_with_it(
    receiver: OtlpReceiver, log: CapturingLogger
) -> None:
    async with telemetry(receiver.url) as sent:
        sent.call("/half of a pair: \ud800", []).end()
        await until(lambda: dropped(sent) == 1)
        call(sent)
    assert len(receiver.named(SPAN)) == 1
    assert [each.method_name for each in log.calls] == ["exception"]


async def test_redirects_are_not_followed(receiver: OtlpReceiver) -> None:
    receiver.answer = lambda: RedirectResponse(f"{receiver.url}/v1/metrics")
    async with telemetry(receiver.url, headers={"authorization": "key"}) as sent:
        call(sent)
        await until(lambda: dropped(sent) == 1)
    assert set(receiver.signals) == {"traces"}


async def test_a_receiver_that_is_not_there_costs_a_log_line_and_no_memory(log: CapturingLogger) -> None:
    async with telemetry(f"http://127.0.0.1:{free_port()}") as sent:
        call(sent, count=10_000)
        assert dropped(sent) >= 10_000 - otlp.MOST_WAITING - otlp.BATCH
        await until(lambda: dropped(sent) == 10_000)
        for _ in range(5):
            call(sent)
            await asyncio.sleep(0.06)
        began = time.monotonic()
    assert time.monotonic() - began < otlp.FLUSH_SECONDS + 1
    assert [each.method_name for each in log.calls] == ["warning"]


async def test_while_it_stays_away_it_is_said_again_from_time_to_time(
    log: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "QUIET_SECONDS", 0.3)
    async with Sender(
        endpoint=f"http://127.0.0.1:{free_port()}", headers={}, dropped=Counter("a", "A", "signal")
    ) as sender:
        began = time.monotonic()
        while time.monotonic() - began < 1:
            await sender.send(Batch("traces", 1, bytes, lambda _: 0))
        assert 2 <= len(log.calls) <= 5


async def silent(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip_a_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"a: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drip_a_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [silent, drip_a_head, drip_a_body])
async def test_a_receiver_that_never_ends_its_answer_is_left(
    answer: Callable[[asyncio.StreamWriter], Any], monkeypatch: pytest.MonkeyPatch, log: CapturingLogger
) -> None:
    monkeypatch.setattr(sending, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(sending, "LARGEST_RESPONSE", 1_000_000)
    async with listening(answer) as url, telemetry(url) as sent:
        call(sent)
        await until(lambda: dropped(sent) == 1)
    assert len(log.calls) == 1


@pytest.mark.parametrize("answer", [silent, drip_a_head, drip_a_body])
async def test_it_does_not_keep_the_server_from_stopping(answer: Callable[[asyncio.StreamWriter], Any]) -> None:
    async with listening(answer) as url:
        sent = telemetry(url, sends_metrics=True)
        await sent.__aenter__()
        call(sent, count=otlp.MOST_WAITING)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await sent.__aexit__()
        assert time.monotonic() - began < otlp.FLUSH_SECONDS + 1
        assert [task for task in asyncio.all_tasks() if "Otlp" in repr(task.get_coro())] == []


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65_536


async def test_an_answer_without_end_is_not_read(receiver: OtlpReceiver) -> None:
    receiver.answer = lambda: StreamingResponse(endless())
    tracemalloc.start()
    async with telemetry(receiver.url) as sent:
        await until(lambda: bool(receiver.signals))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call(sent)
        await until(lambda: len(receiver.signals) > 1)
        await asyncio.sleep(0.3)
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 5_000_000
    # Its status was good.
    assert dropped(sent) == 0


async def test_what_waits_has_a_limit_however_many_calls_there_are() -> None:
    async with listening(silent) as url, telemetry(url) as sent:
        call(sent, count=otlp.MOST_WAITING)
        gc.collect()
        tracemalloc.start()
        call(sent, count=10_000)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 2_000_000
        assert dropped(sent) >= 10_000 - otlp.BATCH


async def test_a_server_whose_receiver_is_gone_serves_starts_and_stops_as_ever(
    tmp_path: Path, log: CapturingLogger
) -> None:
    receiver = OtlpReceiver()
    async with receiver:
        settings = traced(receiver)
    async with serving(tmp_path, **settings) as running:
        alice = running.caller()
        for _ in range(50):
            await alice.create_session()
        await until(lambda: len(log.calls) == 2)
        page = await scrape(running)
        assert page.sum("metamorph_telemetry_dropped_total") > 0
        began = time.monotonic()
        await running.hang_up()
        await running.server.stop(grace_seconds=0)
        assert time.monotonic() - began < otlp.FLUSH_SECONDS + 5
    # One of each signal.
    assert sorted(each.kwargs["signal"] for each in log.calls) == ["metrics", "traces"]
