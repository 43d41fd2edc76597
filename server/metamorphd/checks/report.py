"""Findings as text for people and as JSON for programs."""

from collections.abc import Iterable, Sequence
from typing import Any

from metamorphd.models.finding import Finding, FindingStatus

MARKS = {FindingStatus.OK: "ok", FindingStatus.WARNING: "warning", FindingStatus.FAILED: "FAILED"}


def as_lines(findings: Iterable[Finding]) -> list[str]:
    """Returns a line for each finding, one with its remedy if it has one, and one with the counts.

    A server's text cannot control the terminal, or add a line.
    """
    lines = []
    counts = dict.fromkeys(FindingStatus, 0)
    for finding in findings:
        counts[finding.status] += 1
        lines.append(f"{MARKS[finding.status]:<8} {_printable(finding.name)}: {_printable(finding.what)}")
        if finding.remedy:
            lines.append(f"{'':<8} → {_printable(finding.remedy)}")
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    return lines


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def as_dict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns what `--json` prints: the worst status, and every finding."""
    return {
        "status": worst(findings).value,
        "findings": [
            {"name": each.name, "status": each.status.value, "what": each.what, "remedy": each.remedy}
            for each in findings
        ],
    }


def worst(findings: Iterable[Finding]) -> FindingStatus:
    """Returns the worst status among findings, OK if there are none."""
    order = list(FindingStatus)
    return max((finding.status for finding in findings), key=order.index, default=FindingStatus.OK)
