"""Amounts and numbers, as the command prints them."""

import pytest
from metamorphd.cli.money import dollars, usd
from metamorphd.models.counted import counted


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (21_000, "0.000021"),
        (12_345_678, "0.0123"),
        (500_000_000, "0.50"),
        (999_999_999, "1.00"),
        (1_234_567_000_000, "1,234.57"),
    ],
)
def test_an_amount_has_the_decimals_that_it_needs(nanos: int, shown: str) -> None:
    assert (usd(nanos), dollars(nanos)) == (shown, f"${shown}")


@pytest.mark.parametrize(("count", "shown"), [(0, "0 turns"), (1, "1 turn"), (1_200, "1,200 turns")])
def test_a_noun_agrees_with_its_number(count: int, shown: str) -> None:
    assert counted(count, "turn") == shown


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert (counted(1, "entry is", "entries are"), counted(2, "entry is", "entries are")) == (
        "1 entry is",
        "2 entries are",
    )
