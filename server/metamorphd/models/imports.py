"""Imports into a vault."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ImportState(StrEnum):
    """How far an import is. What is staged is hidden. From REVEALING on, it is complete, also after a crash."""

    STAGING = "staging"
    REVEALING = "revealing"
    DISCARDING = "discarding"


@dataclass(frozen=True, slots=True)
class Line:
    """A record of a file, and the number of its line, from 1."""

    number: int
    kind: str
    record: Mapping[str, Any]
    size: int = field(compare=False, default=0)


class Refused(Exception):
    """An import cannot be stored. `line` is that of the record at fault, `fault` a word for what is wrong with it."""

    def __init__(self, line: int, fault: str, detail: str) -> None:
        super().__init__(line, fault, detail)
        self.line = line
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import, by kind: how many records were stored, and how many left out or known already."""

    stored: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, number: int = 1, *, stored: bool) -> None:
        """Counts records of a kind."""
        (self.stored if stored else self.skipped)[kind] += number

    def add(self, other: "Imported") -> None:
        """Adds another one's counts."""
        self.stored.update(other.stored)
        self.skipped.update(other.skipped)
