"""Findings of checks of a deployment."""

from dataclasses import dataclass
from enum import StrEnum


class FindingStatus(StrEnum):
    """How bad a finding is: a warning is for an operator to know, a failure is to be mended first."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's name, one word or a few with hyphens, its status, and what to do unless that is good.

    Contains no secret's value.
    """

    name: str
    status: FindingStatus
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


def ok(name: str, what: str) -> Finding:
    """Returns a finding of something that is as it should be."""
    return Finding(name, FindingStatus.OK, what)


def warning(name: str, what: str, remedy: str) -> Finding:
    """Returns a finding that an operator should know of."""
    return Finding(name, FindingStatus.WARNING, what, remedy)


def failed(name: str, what: str, remedy: str) -> Finding:
    """Returns a finding that must be mended."""
    return Finding(name, FindingStatus.FAILED, what, remedy)
