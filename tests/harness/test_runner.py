"""The jobs, output and exit status of `python -m harness`."""

import json
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from harness.__main__ import main
from harness.figure import Figure, tried
from harness.harnesses import HARNESSES
from harness.mutants import MUTANTS
from harness.runner import Job, Plan, Result, perform, run
from tests.support.paths import ROOT

MET, UNMET = Figure("faults", 0, "", "=", 0), Figure("faults", 3, "", "=", 0)
GAP = "followers that missed an event"


def test_every_harness_has_mutants_and_every_mutant_a_harness() -> None:
    assert [harness.name for harness in HARNESSES.values() if not harness.mutants] == []
    assert {mutant.harness for mutant in MUTANTS.values()} <= set(HARNESSES)
    assert [mutant.name for mutant in MUTANTS.values() if not mutant.shown_by] == []


@pytest.mark.parametrize(
    ("relation", "value", "met"),
    [("", 9, True), ("≤", 5, True), ("≤", 6, False), ("≥", 5, True), ("≥", 4, False), ("=", 5, True), ("=", 6, False)],
)
def test_a_figure_is_met_within_its_bound(relation: str, value: float, met: bool) -> None:
    figure = Figure("time", value, "s", relation, 5, "the slowest")
    assert figure.met == met
    assert str(figure).startswith(f"time (the slowest): {value} s")
    assert ("NOT MET" in str(figure)) != met


@pytest.mark.parametrize("relation", ["≤", "≥", "="])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_was_not_measured_is_within_no_bound(value: float, relation: str) -> None:
    assert not Figure("time", value, "s", relation, value).met
    assert not Figure("time", value, "s", relation, 5).met
    assert Figure("time", value).met


def test_what_was_never_tried_had_no_faults_to_count() -> None:
    assert tried("followers", 1).met
    assert not tried("followers", 0).met


def test_a_sound_server_must_meet_every_figure() -> None:
    job = Job("race", {}, 1)
    assert Result(job, 1, [MET, Figure("turns", 9)]).good
    assert not Result(job, 1, [MET, UNMET]).good
    assert not Result(job, 1, []).good
    assert not Result(job, 1, [MET], error="Traceback").good


def test_only_a_figure_that_must_show_a_mutant_finds_it() -> None:
    job = Job("race", {}, 1, "live-skips-what-replay-missed")
    assert Result(job, 1, [Figure(GAP, 1, "", "=", 0), MET]).good
    assert not Result(job, 1, [Figure(GAP, 0, "", "=", 0), UNMET]).good
    assert not Result(job, 1, [Figure(GAP, 1, "", "=", 0)], error="Traceback").good


def test_a_form_is_overridden_by_the_mutant_and_then_by_the_command_line() -> None:
    crash = HARNESSES["crash"]
    plan = Plan(7, short=True, overrides={"clients": 3})
    assert plan.sound(crash).form == {"rounds": 5, "clients": 3}
    assert plan.sound(crash).limit_seconds
    forms = {job.mutant: job.form for job in plan.mutants(crash)}
    assert forms["running-turns-left"] == {"rounds": 2, "clients": 3}
    long = Plan(7, short=False).sound(crash)
    assert (long.form, long.limit_seconds, long.alone) == ({"rounds": 1000}, None, True)


def test_harnesses_and_mutants_are_listed_by_room() -> None:
    whole, torture = (CliRunner().invoke(main, [*names, "--list"]).output for names in ([], ["torture"]))
    assert all(name in whole for name in (*HARNESSES, *MUTANTS))
    assert "crash" in torture
    assert "rapid-reset" not in torture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "is not one of"),
        (["race", "--mutant", "resets-are-free"], "another harness's"),
        (["race", "--set", "rounds=many"], "is not NAME=NUMBER"),
    ],
)
def test_an_invalid_argument_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_failing_harness_is_reported_with_its_traceback() -> None:
    result = perform(Job("race", {"no_such": 1}, 1))
    assert not result.good
    assert "no_such" in result.error


def test_a_mutant_that_is_not_found_is_tried_once_more() -> None:
    begun: list[Job] = []
    # Not one of this harness.
    job = Job("race", {"rounds": 1}, 1, "resets-are-free")
    (result,) = run([job], at_a_time=1, begins=begun.append)
    assert (result.good, result.error, result.job.again) == (False, "", True)
    (sound,) = run([Job("race", {"rounds": 1}, 1)], at_a_time=1, begins=begun.append)
    assert (sound.good, sound.job.again) == (True, False)


def test_a_run_prints_its_figures() -> None:
    command = [sys.executable, "-m", "harness", "race", "--short", "--json", "--set", "rounds=12"]
    sound = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (result,) = json.loads(sound.stdout)
    assert (result["harness"], result["mutant"], result["good"], result["seed"]) == ("race", "", True, 1)
    assert {"name": GAP, "value": 0, "relation": "=", "limit": 0, "met": True}.items() <= next(
        figure for figure in result["figures"] if figure["name"] == GAP
    ).items()
