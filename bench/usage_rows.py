"""Rows of usage in a database file, in bulk."""

from collections.abc import Mapping
from pathlib import Path

import apsw
from metamorphd.clock import beginning, day_of

from tests.support.rows import CLOCK, TERMS

DAYS = 20


def fill(file: Path, vaults: Mapping[str, int]) -> None:
    """Gives vaults so many rows of usage, of the days before today: a hundredth of labels, the others of users."""
    today = beginning(day_of(CLOCK.now()))
    days = [day_of(today - number * 86_400_000_000).isoformat() for number in range(1, DAYS + 1)]
    connection = apsw.Connection(str(file))
    used = (TERMS.default_model, 1, 1, 0, 0, 1, 0, 1)
    places = ", ".join("?" * len(used))
    with connection:
        for vault, rows in vaults.items():
            connection.executemany(
                f"INSERT INTO subject_usage VALUES (?, ?, ?, ?, {places}, 0)",  # noqa: S608, places are question marks
                ((vault, *_subject(number), day, *used) for number in range(rows // DAYS) for day in days),
            )
            connection.executemany(
                f"INSERT INTO daily_usage VALUES (?, ?, {places}, NULL)",  # noqa: S608, places are question marks
                ((vault, day, *used[:6], 1, 0) for day in days),
            )
    connection.close()


def _subject(number: int) -> tuple[str, str]:
    return ("label", f"n={number}") if number % 100 == 0 else ("user", f"user-{number}")


def subjects(file: Path, vault_id: str) -> tuple[int, int]:
    """Returns how many rows of labels and of users a vault has."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    sql = "SELECT subject FROM subject_usage WHERE vault_id = ? AND kind = ?"
    labels, users = (len(connection.execute(sql, (vault_id, kind)).fetchall()) for kind in ("label", "user"))
    connection.close()
    return labels, users
