"""One suite for every database: code for one engine is in the folders of that engine."""

from pathlib import Path

import pytest

from tests.support.engines import ENGINES, Engine
from tests.support.paths import ROOT
from tests.support.statements import STORE

TESTS = ROOT / "tests"
# The list of engines, what writes large files of one in bulk, and this file.
GENERATED = TESTS / "support/generated"
EXCEPTIONS = {
    TESTS / "support/engines.py",
    GENERATED / "furnished.py",
    GENERATED / "generate.py",
    GENERATED / "stock.py",
    GENERATED / "vaults.py",
    Path(__file__),
}
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def naming(directory: Path, words: frozenset[str], *, but: Path) -> set[str]:
    """Returns the files of a directory that contain one of the words, except those in the folder `but`."""
    files = [path for path in directory.rglob("*.py") if but not in path.parents and path not in EXCEPTIONS]
    return {str(path.relative_to(directory)) for path in files if any(word in path.read_text() for word in words)}


@each_engine
def test_no_test_outside_its_folder_names_an_engine(engine: Engine) -> None:
    folder = TESTS / "store" / engine.name
    assert naming(TESTS, engine.words, but=folder) == set()
    assert naming(folder, engine.words, but=TESTS / "nowhere")


@each_engine
def test_no_operation_uses_an_engines_own_sql(engine: Engine) -> None:
    folder = STORE / engine.name
    words = engine.words | {"PRAGMA ", " MATCH ", "rowid"}
    assert naming(STORE, words, but=folder) == set()
    assert naming(folder, words, but=STORE / "nowhere")


@each_engine
def test_an_engine_has_a_folder_of_each_kind(engine: Engine) -> None:
    assert list((STORE / "migrations" / engine.name).glob("*.sql"))
    assert list((TESTS / "store" / engine.name).glob("test_*.py"))
