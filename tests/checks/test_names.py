"""Names of variables that are no setting."""

from metamorphd.checks.names import LONGEST_NAME, unknown_names

KNOWN = frozenset({"RATE_LIMIT_REQUESTS", "PORT", "A" * (LONGEST_NAME + 1)})


def remedies(*names: str) -> list[str]:
    return [finding.remedy for finding in unknown_names(names, known=KNOWN, whole=True)]


def test_the_setting_that_is_probably_meant_is_named() -> None:
    assert remedies("RATE_LIMT_REQUESTS") == ["rename it to RATE_LIMIT_REQUESTS"]
    assert "docs/settings.md" in remedies("REPORT")[0]


def test_a_name_that_is_too_long_to_compare_is_no_setting() -> None:
    assert "docs/settings.md" in remedies("A" * (LONGEST_NAME + 2))[0]
