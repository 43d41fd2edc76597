"""The catalog: its models, the cost of calls, and the validation of a catalog file."""

import json
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metamorphd.catalog import Catalog, load_catalog
from metamorphd.clock import rfc3339
from metamorphd.errors import StartupRefused
from metamorphd.models.usage import Usage
from metamorphd.server import Server
from metamorphd.settings import loading

from tests.support.catalogs import dollars, entry, written
from tests.support.tokens import SECRET

NOW = 1_795_780_800_000_000  # 2026-11-27T12:00Z
CATALOG = load_catalog(None, now=NOW)
HAIKU = "claude-haiku-5-5"
DOLLAR = 1_000_000_000


def test_the_built_in_catalog_lists_its_models_in_order() -> None:
    assert [model.model for model in CATALOG.models] == [
        "claude-fable-5-2",
        "claude-haiku-5-5",
        "claude-opus-5-5",
        "claude-sonnet-4-5",
        "claude-sonnet-5-5",
    ]
    assert CATALOG.accepts("claude-sonnet-5-5")
    assert not CATALOG.accepts("claude-sonnet")
    retiring = CATALOG.model("claude-sonnet-4-5")
    assert (rfc3339(retiring.retire_time or 0), retiring.successor) == ("2026-11-30T00:00:00Z", "claude-sonnet-5-5")


# Input, output, cache read and cache write in US dollars per million tokens, of calls above a number of tokens. Typed
# from the provider's list, so that a typo in the catalog is not one here.
PRICES = {
    "claude-fable-5-2": {0: ("8", "40", "0.20", "10")},
    "claude-haiku-5-5": {0: ("0.10", "0.50", "0.01", "0.125"), 100_000: ("0.50", "2.50", "0.05", "0.625")},
    "claude-opus-5-5": {0: ("4", "20", "0.20", "5")},
    "claude-sonnet-4-5": {0: ("3", "15", "0.30", "3.75")},
    "claude-sonnet-5-5": {0: ("2", "10", "0.10", "2.50")},
}


def test_built_in_prices_are_those_of_the_list() -> None:
    def nanos(*dollars: str) -> tuple[int, ...]:
        return tuple(int(Decimal(price) * 1000) for price in dollars)

    assert {
        model.model: {
            price.above_input_tokens: (
                price.input_usd_nanos,
                price.output_usd_nanos,
                price.cache_read_usd_nanos,
                price.cache_write_usd_nanos,
            )
            for price in model.prices
        }
        for model in CATALOG.models
    } == {model: {above: nanos(*price) for above, price in tiers.items()} for model, tiers in PRICES.items()}


def test_built_in_prices_say_where_they_are_from() -> None:
    entries = json.loads(resources.files("metamorphd").joinpath("catalog.json").read_text())["models"]
    for each in entries:
        assert each["prices_source"].startswith("https://")
        assert date(2026, 10, 1) <= date.fromisoformat(each["prices_date"])


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("claude-sonnet-5-5", Usage(input_tokens=1_000_000), 2 * DOLLAR),
        ("claude-sonnet-5-5", Usage(output_tokens=1_000_000), 10 * DOLLAR),
        ("claude-opus-5-5", Usage(cache_read_tokens=1_000_000), DOLLAR // 5),
        ("claude-fable-5-2", Usage(cache_write_tokens=1_000_000), 10 * DOLLAR),
        ("claude-sonnet-5-5", Usage(1, 1, 1, 1), 2000 + 10_000 + 100 + 2500),
        (HAIKU, Usage(), 0),
        (HAIKU, Usage(input_tokens=100_000), 100_000 * 100),
        (HAIKU, Usage(input_tokens=100_001), 100_001 * 500),
        (HAIKU, Usage(input_tokens=1, cache_read_tokens=50_000, cache_write_tokens=49_999), 100 + 500_000 + 6_249_875),
        (
            HAIKU,
            Usage(input_tokens=2, cache_read_tokens=50_000, cache_write_tokens=49_999),
            1000 + 2_500_000 + 31_249_375,
        ),
        (HAIKU, Usage(input_tokens=100_000, output_tokens=2), 100_000 * 100 + 2 * 500),
        (HAIKU, Usage(input_tokens=100_001, output_tokens=2), 100_001 * 500 + 2 * 2500),
    ],
)
def test_the_cost_of_a_call(model: str, usage: Usage, cost: int) -> None:
    assert CATALOG.cost(model, usage) == cost


counts = st.integers(0, 2**31 - 1)


@given(st.sampled_from(CATALOG.models), st.builds(Usage, counts, counts, counts, counts), counts)
def test_more_tokens_never_cost_less_and_costs_fit_64_bits(model: Any, usage: Usage, more: int) -> None:
    costs = [
        CATALOG.cost(model.model, Usage(usage.input_tokens + more, usage.output_tokens, *rest))
        for more in (0, more)
        for rest in [(usage.cache_read_tokens, usage.cache_write_tokens)]
    ]
    assert 0 <= costs[0] <= costs[1] < 2**63


def test_a_configured_file_replaces_the_built_in_catalog(tmp_path: Path) -> None:
    catalog: Catalog = load_catalog(
        written(tmp_path, entry(model="mine", retire_time="2027-01-01T02:00:00+02:00")), now=NOW
    )
    assert [model.model for model in catalog.models] == ["mine"]
    assert catalog.model("mine").retire_time == 1_798_761_600_000_000
    assert catalog.cost("mine", Usage(input_tokens=1)) == 2000


@pytest.mark.parametrize("day", ["2026-11-28", "2026-11-27", "2025-01-01"])
def test_prices_may_have_been_read_where_tomorrow_has_begun(tmp_path: Path, day: str) -> None:
    assert load_catalog(written(tmp_path, entry(prices_date=day)), now=NOW).accepts("m")


def test_the_server_does_not_start_with_prices_of_the_future(tmp_path: Path) -> None:
    loaded = loading.load(emblem_jwt_secret=SECRET, model_catalog=written(tmp_path, entry(prices_date="9999-12-31")))
    with pytest.raises(StartupRefused, match=r"catalog\.json is invalid: models\.0\.prices_date"):
        Server(loaded)


CAN: dict[str, Any] = {"thinking": [], "efforts": []} | dict.fromkeys(
    ("thinks_by_default", "forced_tool_choice", "images", "documents", "response_schema"), True
)


@pytest.mark.parametrize("capabilities", [None, CAN])
def test_a_model_reads_as_many_pages_as_its_provider_accepts_for_its_context(
    tmp_path: Path, capabilities: dict[str, Any] | None
) -> None:
    def pages(capabilities: dict[str, Any] | None, context_tokens: int) -> int:
        path = written(tmp_path, entry(capabilities=capabilities, context_tokens=context_tokens))
        return load_catalog(path, now=NOW).model("m").capabilities.document_pages

    assert [pages(capabilities, tokens) for tokens in (200_000, 999_999, 1_000_000)] == [100, 100, 600]
    assert pages(CAN | {"document_pages": 7}, 1_000_000) == 7


TIER = {"above_input_tokens": 5, "usd_per_million_tokens": dollars()}
FIRST = entry()["prices"][0]


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ([], "models"),
        ([entry(context_tokens=None)], "models.0.context_tokens"),
        ([entry(context_tokens=0)], "models.0.context_tokens"),
        ([entry(context_tokens="1000")], "models.0.context_tokens"),
        ([entry(model="a b")], "models.0.model"),
        ([entry(contxt=1)], "models.0.contxt"),
        ([entry(), entry()], "m twice"),
        ([entry(prices=[])], "models.0.prices"),
        ([entry(prices=[TIER])], "ascending above_input_tokens, from 0"),
        ([entry(prices=[FIRST, FIRST])], "ascending above_input_tokens, from 0"),
        ([entry(prices=[FIRST, TIER, TIER])], "ascending above_input_tokens, from 0"),
        ([entry(prices=[FIRST | {"usd_per_million_tokens": dollars(input=0.0001)}])], "input"),
        ([entry(prices=[FIRST | {"usd_per_million_tokens": dollars(output=-1)}])], "output"),
        ([entry(prices=[FIRST | {"usd_per_million_tokens": dollars(output=1e30)}])], "output"),
        ([entry(prices=[FIRST | {"usd_per_million_tokens": dollars(output=True)}])], "output"),
        ([entry(prices=[FIRST | {"usd_per_million_tokens": {"input": 2}}])], "output"),
        *(
            ([entry(capabilities=CAN | {"document_pages": pages})], "models.0.capabilities.document_pages")
            for pages in (0, 601, "7", True)
        ),
        ([entry(retire_time="2026-11-30")], "retire_time"),
        ([entry(retire_time="2026-11-30T00:00:00")], "retire_time"),
        ([entry(prices_date="2026-11-29")], "models.0.prices_date: Value error, must not be in the future"),
        ([entry(), entry(model="n", prices_date="9999-12-31")], "models.1.prices_date"),
        ([entry(prices_date="soon")], "models.0.prices_date"),
        ([entry(successor="n")], "the successor of m, n, is not"),
    ],
)
def test_an_inconsistent_file_is_refused_in_one_line(tmp_path: Path, models: list[dict[str, Any]], named: str) -> None:
    path = written(tmp_path, *models)
    with pytest.raises(StartupRefused) as refusal:
        load_catalog(path, now=NOW)
    assert named in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"models": NaN}', '{"models": [1]}', "\xff"])
def test_a_file_that_is_not_a_catalog_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StartupRefused, match="MODEL_CATALOG") as refusal:
        load_catalog(path, now=NOW)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupRefused, match="cannot be read"):
        load_catalog(tmp_path / "nowhere.json", now=NOW)


def test_the_server_does_not_start_with_an_unknown_default_model(tmp_path: Path) -> None:
    loaded = loading.load(emblem_jwt_secret=SECRET, model_catalog=written(tmp_path, entry()))
    with pytest.raises(StartupRefused, match="DEFAULT_MODEL") as refusal:
        Server(loaded)
    assert "\n" not in str(refusal.value)
