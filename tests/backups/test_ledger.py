"""The files of the erasure ledger: what is in them stays in them, and is read from where reading ended."""

from pathlib import Path

import pytest
from metamorphd.backups.ledger import BEGINNING, STEP_BYTES, Ledger, LedgerFile
from metamorphd.models.erased_vault import ErasedVault

FIRST, SECOND, THIRD = (ErasedVault(f"vault-{number}", "a" * 32, 10 - number) for number in range(3))


@pytest.fixture
def file(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "backups" / "erased-vaults.jsonl")


def entries_of(file: LedgerFile) -> list[ErasedVault]:
    return [entry for part, _ in file.parts() for entry in part]


def test_entries_are_appended(file: LedgerFile) -> None:
    assert (entries_of(file), file.end()) == ([], BEGINNING)
    begin, middle = file.add([FIRST])
    assert (begin, middle) == (BEGINNING, file.end())
    assert file.add([SECOND, THIRD]) == (middle, file.end())
    assert entries_of(file) == [FIRST, SECOND, THIRD]
    assert file.read(middle) == ([SECOND, THIRD], file.end())
    assert file.read(file.end()) == ([], file.end())
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_large_file_is_read_a_part_at_a_time(file: LedgerFile) -> None:
    many = [ErasedVault(f"vault-{number}", "b" * 32, number) for number in range(9_000)]
    file.add(many)
    parts = list(file.parts())
    assert len(parts) == -(-file.path.stat().st_size // STEP_BYTES) == 3
    assert [entry for part, _ in parts for entry in part] == many
    assert parts[-1][1] == file.end()


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_hides_neither_those_before_nor_those_after(file: LedgerFile, cut: int) -> None:
    file.add([FIRST, SECOND])
    file.path.write_bytes(file.path.read_bytes()[:-cut])
    _, end = file.read(BEGINNING)
    assert end == file.end()
    file.add([THIRD])
    assert {FIRST, THIRD} <= set(entries_of(file)) <= {FIRST, SECOND, THIRD}
    assert file.read(end)[0] == [THIRD]


def test_bytes_that_are_no_entries_are_passed(file: LedgerFile) -> None:
    file.add([FIRST])
    with file.path.open("ab") as opened:
        opened.write(b"\xff" * (2 * STEP_BYTES))
    file.add([SECOND])
    assert entries_of(file) == [FIRST, SECOND]


def test_a_file_holds_its_positions_as_long_as_it_is_only_appended_to(file: LedgerFile) -> None:
    _, middle = file.add([FIRST])
    _, end = file.add([SECOND])
    content = file.path.read_bytes()
    assert file.holds(BEGINNING)
    assert file.holds(middle)
    assert file.holds(end)
    file.path.write_bytes(content[:-1])
    assert file.holds(middle)
    assert not file.holds(end)
    file.path.write_bytes(content.replace(b"vault-1", b"vault-7"))
    assert file.holds(middle)
    assert not file.holds(end)
    file.path.unlink()
    assert file.holds(BEGINNING)
    assert not file.holds(middle)


def test_it_is_beside_the_file_of_the_database_even_if_the_path_is_a_link(tmp_path: Path) -> None:
    real = tmp_path / "volume" / "other.db"
    real.parent.mkdir()
    link = tmp_path / "metamorph.db"
    link.symlink_to(real)
    ledger = Ledger(database=link, backups=tmp_path)
    assert ledger.files["database"].path == real.with_name("other.db.erased-vaults.jsonl")


def test_what_is_kept_with_a_backup_is_brought_beside_the_database(tmp_path: Path) -> None:
    ledger = Ledger(database=tmp_path / "metamorph.db", backups=tmp_path / "backups")
    assert not ledger.bring([])
    ledger.files["database"].add([FIRST])
    ledger.files["backups"].add([FIRST])
    assert ledger.bring([])
    assert entries_of(ledger.brought) == []
    assert ledger.bring([[SECOND], []])
    assert entries_of(ledger.brought) == [SECOND]
    # The server may have another directory of backups.
    ledger.files["backups"].add([THIRD])
    assert ledger.bring([])
    assert entries_of(ledger.brought) == [SECOND, FIRST, THIRD]
    ledger.brought.delete()
    assert entries_of(ledger.brought) == []
