"""Which calls are recorded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metamorphd.telemetry.sampling import MOST_ASKED_FOR, Parent, Sampling, parent_in
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, LEFT_OUT = Parent({}, sampled=True), Parent({}, sampled=False)


def sampled(text: str | bytes) -> bool | None:
    """Returns whether a header says that a span is recorded, None if it says nothing."""
    parent = parent_in([("traceparent", text)])
    return None if parent is None else parent.sampled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        # The other flags say something else.
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"cc-{TRACE}-{SPAN}-01.", None),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}", None),
        (f"00-{TRACE}-{SPAN}-01-", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"00-{TRACE}-{SPAN}-01".encode(), None),
        ("", None),
    ],
)
def test_a_header_counts_if_it_is_valid(text: str | bytes, expected: bool | None) -> None:
    assert sampled(text) is expected


def test_two_headers_count_for_nothing() -> None:
    header = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert parent_in([header, header]) is None
    assert parent_in([("tracestate", "a=1")]) is None


@given(st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?", fullmatch=True), st.text(max_size=600))
def test_what_counts_is_what_the_library_reads_and_no_state_makes_it_fail(text: str, state: str) -> None:
    parent = parent_in([("traceparent", text), ("tracestate", state)])
    headers = parent.headers if parent is not None and parent.sampled else {"traceparent": [text], "tracestate": []}
    read = get_current_span(TraceContextTextMapPropagator().extract(headers, Context())).get_span_context()
    assert read.is_valid is (parent is not None)
    assert parent is None or read.trace_flags.sampled is parent.sampled


def test_a_share_of_the_calls_is_recorded_that_no_caller_has_decided_about() -> None:
    chances = iter([0.0, 0.29, 0.3, 0.9])
    sampling = Sampling(0.3, chance=lambda: next(chances))
    assert [sampling.records(None) for _ in range(4)] == [True, True, False, False]


def test_a_share_of_nothing_and_of_all() -> None:
    assert not any(Sampling(0).records(None) for _ in range(1000))
    assert all(Sampling(1).records(None) for _ in range(1000))


def test_callers_decide_within_a_rate_and_above_it_the_share_does() -> None:
    seconds = [0.0]
    none, all_of_them = (Sampling(share, now=lambda: seconds[0]) for share in (0.0, 1.0))
    for sampling in (none, all_of_them):
        assert not sampling.records(LEFT_OUT)
    most = int(MOST_ASKED_FOR)
    assert [none.records(SAMPLED) for _ in range(most + 3)] == [True] * most + [False] * 3
    assert all(all_of_them.records(SAMPLED) for _ in range(most + 3))
    seconds[0] = 0.25
    assert [none.records(SAMPLED) for _ in range(4)] == [True, True, False, False]
    # It does not grow without limit.
    seconds[0] = 1000
    assert sum(none.records(SAMPLED) for _ in range(3 * most)) == most
