"""The page for operators states the bytes and volumes that `make bench` measures."""

import pytest

from bench.volumes import GUIDE, TABLES, User, Volumes, volumes
from tests.support.paths import ROOT
from tests.support.tables import table

PAGE = ROOT / "docs" / "operating.md"
# Sizes depend on identifiers, and a little on how a reply is divided into events.
TOLERANCE = 0.25


def stated_bytes() -> dict[str, int]:
    return {kind: int(size.replace(",", "")) for kind, size in table(PAGE, "What is stored")}


@pytest.mark.timeout(300)
def test_the_stated_bytes_are_those_of_a_database_that_a_server_writes() -> None:
    measured = Volumes(step=lambda _: None).measured()
    stated = stated_bytes()
    assert list(stated) == list(TABLES) == list(measured)
    wrong = {kind: (stated[kind], size) for kind, size in measured.items() if abs(stated[kind] / size - 1) > TOLERANCE}
    assert wrong == {}


def test_the_stated_volumes_follow_from_the_stated_bytes() -> None:
    stated = table(PAGE, "Users")
    computed = [
        [f"{volume.users:,}", f"{volume.database / 1e9:.2f} GB", f"{volume.week} GB", f"{volume.day} GB"]
        for volume in volumes(stated_bytes())
    ]
    assert [row[:4] for row in stated] == computed
    assert [int(row[4].split()[0]) for row in stated] == list(GUIDE.values())


def test_the_page_states_what_a_user_is_taken_for() -> None:
    user, text = User(), " ".join(PAGE.read_text().split())
    assert f"a vault with {user.sessions} sessions, each used on one day, and {user.turns} turns" in text
    assert f"who make {user.turns_a_day} turns a day" in text
