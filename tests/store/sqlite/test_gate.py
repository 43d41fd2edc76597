"""The gate that snapshots pass."""

import threading
import time

import pytest
from metamorphd.store.sqlite import gate
from metamorphd.store.sqlite.gate import Gate


def test_a_closed_gate_waits_for_the_open_snapshots_and_keeps_new_ones_away() -> None:
    passing, order = Gate(), []
    first, opened = threading.Event(), threading.Event()

    def read(name: str, until: threading.Event) -> None:
        with passing.snapshot():
            opened.set()
            until.wait(5)
            order.append(name)

    early = threading.Thread(target=read, args=("early", first))
    early.start()
    opened.wait(5)
    threading.Timer(0.02, first.set).start()
    with passing.closed(hurry=True) as alone:
        assert alone
        order.append("closed")
        late = threading.Thread(target=read, args=("late", first))
        late.start()
        time.sleep(0.05)
        order.append("open")
    for thread in (early, late):
        thread.join()
    assert order == ["early", "closed", "open", "late"]


def test_a_closed_gate_continues_when_the_last_snapshot_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PATIENCE_SECONDS", 20)
    passing, opened, until = Gate(), threading.Event(), threading.Event()

    def read() -> None:
        with passing.snapshot():
            opened.set()
            until.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    opened.wait(30)
    threading.Timer(0.02, until.set).start()
    began = time.monotonic()
    with passing.closed(hurry=False) as alone:
        assert alone
    # Not when its patience ends.
    assert time.monotonic() - began < 10
    reader.join()


def test_a_gate_that_need_not_be_empty_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PATIENCE_SECONDS", 0.01)
    passing = Gate()
    with passing.snapshot(), passing.closed(hurry=False) as alone:
        assert (alone, passing.hurried) == (False, False)
    with passing.closed(hurry=False) as alone:
        assert alone
