"""How often errors are reported."""

from metamorphd.reports.allowance import MOST_EVENTS, MOST_KINDS, Allowance


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_an_error_is_admitted_once_a_minute_with_the_number_left_out() -> None:
    now = Time()
    allowance = Allowance(now=now)
    assert [allowance.admit("a") for _ in range(1_000)] == [0] + [None] * 999
    assert allowance.admit("b") == 0
    now.seconds = 60
    assert [allowance.admit("a") for _ in range(3)] == [999, None, None]
    now.seconds = 120
    assert [allowance.admit("a"), allowance.admit("b")] == [2, 0]


def test_all_kinds_together_are_bounded_and_what_is_left_out_is_counted() -> None:
    now = Time()
    allowance = Allowance(now=now)
    admitted = [allowance.admit(kind) for kind in range(2 * MOST_EVENTS)]
    assert admitted == [0] * MOST_EVENTS + [None] * MOST_EVENTS
    now.seconds = 60
    assert allowance.admit(2 * MOST_EVENTS - 1) == 1


def test_the_kinds_that_are_remembered_are_bounded() -> None:
    now = Time()
    allowance = Allowance(now=now)
    allowance.admit("first")
    for kind in range(MOST_KINDS - 1):
        allowance.admit(kind)
    # It is now the newest, so others are forgotten before it.
    assert allowance.admit("first") is None
    allowance.admit("one more")
    now.seconds = 60
    assert allowance.admit("first") == 1
