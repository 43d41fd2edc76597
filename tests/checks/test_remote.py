"""Findings about a server seen from outside."""

import pytest
from metamorphd.checks.remote import DAY, HOUR, backups, certificate, clocks, plaintext, private, versions
from metamorphd.models.finding import FindingStatus

OK, WARNING, FAILED = FindingStatus
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("ahead", "status"),
    [(0, OK), (5, OK), (-5, OK), (5.1, WARNING), (-30, WARNING), (30, WARNING), (30.1, FAILED), (-31, FAILED)],
)
def test_clocks_may_differ_by_what_tokens_may(ahead: float, status: FindingStatus) -> None:
    found = clocks(ahead)
    assert (found.status, bool(found.remedy)) == (status, status is not OK)
    assert status is OK or ("ahead" in found.what.split("machine")[0]) == (ahead > 0)


def judged(
    newest: float | None, verified: float | None, *, fault: str = "", interval: float = 24, uptime: float = DAY
) -> list[tuple[str, FindingStatus]]:
    """Judges a backup that is so many seconds old, and a verification."""
    found = backups(
        newest=None if newest is None else NOW - newest,
        verified=None if verified is None else NOW - verified,
        fault=fault,
        interval_hours=interval,
        uptime=uptime,
        now=NOW,
    )
    return [(each.name, each.status) for each in found if each.status is not OK]


def test_backups_are_recent_good_and_verified() -> None:
    assert judged(HOUR, HOUR) == []
    assert judged(48 * HOUR, 7 * DAY) == []
    assert judged(48 * HOUR + 1, HOUR) == [("backup", FAILED)]
    assert judged(3 * HOUR, HOUR, interval=1) == [("backup", FAILED)]
    assert judged(47 * HOUR, HOUR, interval=0) == []
    assert judged(HOUR, 7 * DAY + 1) == [("backup-verified", WARNING)]
    assert judged(HOUR, None) == [("backup-verified", WARNING)]
    assert judged(HOUR, HOUR, fault="damaged") == [("backup", FAILED)]
    assert judged(-HOUR, -HOUR) == []


def test_a_server_has_an_hour_for_its_first_backup() -> None:
    assert judged(None, None, uptime=HOUR - 1) == []
    assert judged(None, None, uptime=HOUR) == [("backup", FAILED)]
    assert judged(None, None, uptime=1, interval=0) == [("backup", FAILED)]
    assert judged(None, None, uptime=1, fault="it failed") == [("backup", FAILED)] * 2


def test_a_certificate_is_renewed_three_weeks_before_its_end() -> None:
    assert certificate(21 * DAY).status is OK
    assert certificate(21 * DAY - 1).status is WARNING
    assert certificate(-DAY).status is WARNING


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("fd12::1", True),
        ("fe80::1%eth0", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
    ],
)
def test_an_address_is_private_or_public(address: str, expected: bool) -> None:
    assert private(address) == expected


def test_plaintext_at_one_public_address_fails() -> None:
    assert plaintext("tls", "It is served", ["10.0.0.1", "127.0.0.1"], "mend").status is OK
    assert plaintext("tls", "It is served", ["10.0.0.1", "8.8.8.8"], "mend").status is FAILED


def test_another_version_or_schema_is_worth_a_warning() -> None:
    assert versions(server="1", schema=2, own="1", own_schema=2).status is OK
    assert versions(server="2", schema=2, own="1", own_schema=2).status is WARNING
    assert versions(server="1", schema=3, own="1", own_schema=2).status is WARNING
