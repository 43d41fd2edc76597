"""Server-sent events, split into chunks at any point."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metamorphd.llm import event_stream
from metamorphd.llm.event_stream import BOM, ErrorData, EventStream

STREAM = 'event: a\ndata: {"text": "ü"}\n\n: a comment\n\nid: 7\ndata:two\ndata: lines\n\ndata: last\n\n'.encode()
EVENTS = ['{"text": "ü"}'.encode(), b"two\nlines", b"last"]


def fed(*chunks: bytes) -> list[bytes]:
    stream = EventStream()
    return [data for chunk in chunks for data in stream.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 2 * len(STREAM)), max_size=12))
def test_chunk_boundaries_do_not_change_the_events(end: bytes, cuts: list[int]) -> None:
    text = BOM + STREAM.replace(b"\n", end) + b": trailing"
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert fed(*(text[begin:stop] for begin, stop in pairwise(places))) == EVENTS


def test_a_byte_order_mark_before_data_is_removed_also_in_pieces() -> None:
    for cut in range(len(BOM) + 1):
        assert fed(BOM[:cut], BOM[cut:] + b"data: a\n\n") == [b"a"]
    # Only at the beginning.
    assert fed(b"data: a\n\n" + BOM + b"data: b\n\n") == [b"a"]


def test_data_is_marked_if_its_event_is_named_error() -> None:
    stream = (
        b"event: error\ndata: one\n\nevent:error\ndata: two\n\nevent: errors\ndata: three\n\ndata: event: error\n\n"
    )
    assert [isinstance(data, ErrorData) for data in fed(stream)] == [True, True, False, False]


def test_an_unterminated_event_is_dropped() -> None:
    assert fed(b"data: one\n\ndata: two\n") == [b"one"]


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LARGEST_EVENT", 1000)
    with pytest.raises(ValueError, match="the event is too large"):
        fed(*[b"data: " + b"x" * 100] * 20)


@pytest.mark.parametrize("piece", [b"x" * 64, b"x: 1234\n" * 8, b"x: 123\r\n" * 8])
def test_an_event_in_small_chunks_costs_as_much_as_its_size(piece: bytes) -> None:
    stream, began = EventStream(), time.process_time()
    for chunk in [b"data: ", *[piece] * 16_384, b"\n\n"]:
        last = stream.feed(chunk)
    assert len(last) == 1
    # Otherwise ten: all that has come is copied for each chunk.
    assert time.process_time() - began < 2
