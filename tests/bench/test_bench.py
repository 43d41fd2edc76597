"""`make bench` prints what it has, whatever fails."""

from pathlib import Path

import pytest

from bench.parts import Bench
from bench.processes import LoadFailed, Services, loading
from tests.support.processes import service


def test_a_figure_that_cannot_be_had_says_why_and_the_others_are_measured(tmp_path: Path) -> None:
    with service(["bench.bare", "echo"], tmp_path) as echo:
        # An echo knows two methods: it cannot send messages.
        running = Services(metamorph=echo, bare=echo, unguarded=echo, unchained=echo, messages_api=echo)
        figures = list(Bench(running, seconds=0.1, step=lambda _: None).figures("cbd"))
    measured = {figure.measure: figure.ours for figure in figures}
    assert "/s (p50 " in measured["(b) durable CreateSession, 64 in flight"]
    (not_measured,) = (ours for ours in measured.values() if ours.startswith("not measured"))
    assert not_measured == "not measured: UNIMPLEMENTED: Method not found!"
    assert list(measured)[-1].startswith("(d) ")


def test_a_load_whose_server_ends_fails_with_one_line(tmp_path: Path) -> None:
    with (
        service(["bench.bare", "echo"], tmp_path) as echo,
        loading("get", echo, in_flight=2, seconds=0.1) as load,
    ):
        assert load.round()["per_second"] > 0
        echo.process.kill()
        echo.process.wait()
        with pytest.raises(LoadFailed, match=r"^UNAVAILABLE: .+$|NoSuchProcess"):
            load.round()
