"""The database engines that tests run on. Outside the engines' own tests, only this file names them.

To add an engine, add a class beside its tests, and a line to `ENGINES`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from metamorphd.chain import Chain
from metamorphd.store.database import Database

from tests.store.sqlite.engine import SqliteEngine

UNCHAINED = Chain()


class Engine(Protocol):
    """An engine, for tests."""

    @property
    def name(self) -> str:
        """Names its folders in the store, the migrations and the tests, and its dialect in sqlglot."""

    @property
    def words(self) -> frozenset[str]:
        """The words that no test outside its folder may use."""

    @property
    def database_class(self) -> type[Database]:
        """The class of its databases."""

    def database(self, directory: Path, *, chain: Chain = UNCHAINED) -> Database:
        """Returns a database, not open yet, that keeps its data in `directory`. `chain` authenticates its logs."""

    def create(self, directory: Path) -> None:
        """Puts an empty database of the latest schema into `directory` if there is none: opening one takes longer."""

    def counts(self, directory: Path, *tables: str) -> tuple[int, ...]:
        """Returns how many rows tables have in the data in `directory`, whether a server runs on it or not."""

    def tables(self) -> Mapping[str, list[tuple[str, int]]]:
        """Returns each table's columns as (name, place in the primary key, or 0) in the latest schema."""

    def compile(self, sql: str) -> None:
        """Raises whatever the database raises for a statement that does not fit the latest schema."""


ENGINES: list[Engine] = [SqliteEngine()]
