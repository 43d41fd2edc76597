"""`make bench` prints what it has, whatever fails."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress

from bench.backups import Backups
from bench.budgets import Budgets
from bench.operations import OPERATIONS
from bench.parts import Bench
from bench.processes import LoadFailed, Services, loading
from bench.sizes import Sizes, at
from bench.suspensions import Held, Suspensions
from bench.transfers import Transfers
from bench.vaults import Vaults
from tests.support.generated.layout import Layout
from tests.support.generated.vaults import VaultsLayout
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


def test_every_operation_is_measured_at_both_sizes(tmp_path: Path) -> None:
    small, large = (Layout(messages, vaults=3, erasable=1, deep_messages=120) for messages in (200, 4_000))
    once = [replace(operation, most=1) for operation in OPERATIONS]
    sizes = Sizes(
        (small, large),
        progress=Progress(disable=True),
        step=lambda _: None,
        files=tmp_path,
        operations=once,
        rounds=1,
        starts=0,
    )
    stored, *figures = sizes.figures()
    assert (stored.reference.split()[0], stored.ours.split()[0]) == ("438", "4,000")
    assert [figure.measure for figure in figures] == [f"(g) {operation.name}" for operation in OPERATIONS]
    assert [figure.ours for figure in figures if not figure.ours.startswith("p50 ")] == []
    # A copy was measured.
    assert [file.suffix for file in tmp_path.iterdir()] == [".db", ".db"]


def test_what_vaults_store_is_measured_at_both_sizes(tmp_path: Path) -> None:
    layouts = (VaultsLayout(vaults=3, rows=30), VaultsLayout(vaults=3, rows=90))
    vaults = Vaults(layouts, progress=Progress(disable=True), step=lambda _: None, files=tmp_path, rounds=1)
    stored, *figures = vaults.figures()
    assert (stored.reference.split()[0], stored.ours.split()[0]) == ("30", "90")
    assert [figure.ours for figure in figures[:-1] if not figure.ours.startswith("p50 ")] == []
    assert figures[-1].ours.endswith(" ms")
    assert [file.suffix for file in tmp_path.iterdir()] == [".db", ".db"]


def test_labels_and_budgets_are_measured_and_a_neighbours_rows_are_counted() -> None:
    figures = {
        figure.measure: figure
        for figure in Budgets(step=lambda _: None, rounds=3, rows=400, neighbour_turns=12).figures()
    }
    *compared, labels, users = figures.values()
    assert [figure.ours for figure in compared if not figure.ours.startswith("p50 ")] == []
    # Of each turn one user and eight labels.
    assert (labels.ours, users.ours, labels.met) == ("96", "12", True)


def test_a_backup_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    layout = Layout(2_000, vaults=3, erasable=1, deep_messages=120)
    figures = Backups(
        layout, progress=Progress(disable=True), step=lambda _: None, files=tmp_path, idle_seconds=0.3
    ).figures()
    beside, memory, log, backup, restore = (figure.ours for figure in figures)
    assert beside.startswith("p50 ")
    assert (memory.endswith("MiB"), log.endswith("MiB")) == (True, True)
    assert (backup.endswith("MB/s"), restore.endswith("MB/s")) == (True, True)
    assert [file.suffix for file in tmp_path.iterdir()] == [".db"]


def test_an_export_and_an_import_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    layout = Layout(2_000, vaults=3, erasable=1, deep_messages=120)
    measuring = Transfers(
        layout, progress=Progress(disable=True), step=lambda _: None, files=tmp_path, idle_seconds=0.3
    )
    figures = list(measuring.figures())
    units = [figure.ours.split()[1] for figure in figures]
    assert units[:4] + units[5:] == ["MB/s", "MiB", "MB/s", "MiB", "MiB"]
    assert figures[4].ours.startswith("p50")
    assert [file.suffix for file in tmp_path.iterdir()] == [".db"]


def test_a_neighbour_is_measured_beside_a_suspension_until_all_streams_of_the_vault_have_ended() -> None:
    beside, lasting = Suspensions(step=lambda _: None, held=(Held(turns=2, watchers=3),), rounds=1).figures()
    assert beside.ours.startswith("p50 ")
    assert beside.reference.endswith(" calls)")
    assert lasting.measure == "(o) until all of 2 running turns and 3 watchers have ended"


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (90, 9), (99, 10)])
def test_a_percentile_is_the_nearest_rank(percent: int, value: int) -> None:
    assert at([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == value
