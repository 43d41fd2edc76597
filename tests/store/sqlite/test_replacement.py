"""A database that takes the place of another one, interrupted at every step."""

from pathlib import Path
from typing import Any

import apsw
import pytest
from metamorphd.store.sqlite.inspection import count_rows
from metamorphd.store.sqlite.replacement import finish_replacement, replace_database

from tests.support.interrupting import interrupting


class Killed(BaseException):
    """Stands for the end of the process: nothing of it runs any more."""


def database(path: Path, word: str, *, log: bool = False) -> None:
    """Makes a database with a word. `log`: the word is in its write-ahead log only."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("CREATE TABLE words (word)").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute("INSERT INTO words VALUES (?)", (word,)).fetchall()
    if log:
        copies = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        connection.close()
        for suffix, content in copies.items():
            Path(f"{path}{suffix}").write_bytes(content)
    else:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.close()


def word_in(path: Path) -> Any:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("SELECT word FROM words").get
    finally:
        connection.close()


def test_counting_rows_leaves_the_log_of_a_crash(tmp_path: Path) -> None:
    crashed, closed = tmp_path / "a.db", tmp_path / "b.db"
    database(crashed, "old", log=True)
    database(closed, "old")
    before = Path(f"{crashed}-wal").read_bytes()
    assert count_rows(crashed) == count_rows(closed) == {"words": 1}
    # By it, the next start sees that it has to check the file.
    assert Path(f"{crashed}-wal").read_bytes() == before
    assert not Path(f"{closed}-wal").exists()


def test_the_old_database_is_kept_with_its_log(tmp_path: Path) -> None:
    path, new, aside = tmp_path / "a.db", tmp_path / "new.db", tmp_path / "a.db.before"
    database(path, "old", log=True)
    database(new, "new")
    replace_database(path, new, aside=aside)
    assert (word_in(path), word_in(aside)) == ("new", "old")
    assert not new.exists()
    assert not finish_replacement(path)


# The last one is not reached.
@pytest.mark.parametrize("at", range(1, 12))
def test_interrupted_at_any_step_it_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    path, new, aside = tmp_path / "a.db", tmp_path / "new.db", tmp_path / "a.db.before"
    database(path, "old", log=True)
    database(new, "new")
    with monkeypatch.context() as patch:
        calls = interrupting(patch, Killed, at=at)
        try:
            replace_database(path, new, aside=aside)
            assert at == 11 > calls()
        except Killed:
            pass
    # As a server does at its start: to lock the database makes it, if it is missing.
    path.touch()
    finished = finish_replacement(path)
    assert word_in(path) == ("new" if finished or at >= 9 else "old")
    if aside.exists():
        assert word_in(aside) == "old"
    assert word_in(path) == "new" or not Path(f"{aside}-wal").exists()
