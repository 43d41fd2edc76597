"""Findings as text and as JSON."""

from metamorphd.checks.report import as_dict, as_lines, worst
from metamorphd.models.finding import FindingStatus, failed, ok, warning

GOOD, ODD, BAD = ok("one", "is good"), warning("two", "is odd", "look"), failed("three", "is bad", "mend it")


def test_every_finding_has_a_line_and_a_bad_one_its_remedy() -> None:
    assert as_lines([GOOD, ODD, BAD]) == [
        "ok       one: is good",
        "warning  two: is odd",
        "         → look",
        "FAILED   three: is bad",
        "         → mend it",
        "1 ok, 1 warning, 1 failed",
    ]


def test_a_servers_text_cannot_control_the_terminal_or_add_a_line() -> None:
    lines = as_lines([failed("a\x1b[2J", "b\nok       c: is good", "d\r\x07")])
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_the_worst_finding_is_that_of_all() -> None:
    assert worst([]) is FindingStatus.OK
    assert worst([GOOD, ODD]) is FindingStatus.WARNING
    assert worst([BAD, ODD, GOOD]) is FindingStatus.FAILED
    assert as_dict([ODD, GOOD]) == {
        "status": "warning",
        "findings": [
            {"name": "two", "status": "warning", "what": "is odd", "remedy": "look"},
            {"name": "one", "status": "ok", "what": "is good", "remedy": ""},
        ],
    }
