"""The erasure ledger: what is in it stays in it, in each of its files."""

from pathlib import Path

import pytest
from metamorphd.backups.ledger import Ledger, beside
from metamorphd.models.erased_vault import ErasedVault

FIRST, SECOND, THIRD = (ErasedVault(f"vault-{number}", "a" * 32, 10 - number) for number in range(3))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / "metamorph.db.erased-vaults.jsonl", tmp_path / "backups" / "erased-vaults.jsonl"]


def test_an_entry_is_in_each_file_once(paths: list[Path]) -> None:
    ledger = Ledger(paths)
    assert ledger.read() == []
    ledger.add([FIRST, FIRST])
    ledger.add([FIRST, SECOND])
    assert ledger.read() == [SECOND, FIRST]
    for path in paths:
        assert Ledger([path]).read() == [SECOND, FIRST]
        assert len(path.read_bytes().splitlines()) == 2
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_lost_is_no_loss(paths: list[Path]) -> None:
    ledger = Ledger(paths)
    ledger.add([FIRST])
    paths[0].unlink()
    assert ledger.read() == [FIRST]
    ledger.add(ledger.read())
    assert Ledger(paths[:1]).read() == [FIRST]


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_hides_neither_those_before_nor_those_after(paths: list[Path], cut: int) -> None:
    ledger = Ledger(paths[:1])
    ledger.add([FIRST, SECOND])
    paths[0].write_bytes(paths[0].read_bytes()[:-cut])
    ledger.add([THIRD])
    assert {FIRST, THIRD} <= set(ledger.read()) <= {FIRST, SECOND, THIRD}
    ledger.add([SECOND])
    assert set(ledger.read()) == {FIRST, SECOND, THIRD}


def test_it_is_beside_the_file_of_the_database_even_if_the_path_is_a_link(tmp_path: Path) -> None:
    real = tmp_path / "volume" / "other.db"
    real.parent.mkdir()
    link = tmp_path / "metamorph.db"
    link.symlink_to(real)
    assert beside(link) == real.with_name("other.db.erased-vaults.jsonl")
