"""Outcomes of many tokens."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from harness.figure import Figure, tried

ACCEPTED = "accepted"
REFUSALS = ("TOKEN_INVALID", "TOKEN_EXPIRED")
EXAMPLES = 3
SHOWN = 120


@dataclass
class Tally:
    """Counts outcomes, `accepted` or the reason of a refusal, and keeps a few examples of any others."""

    outcomes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, tally: dict[str, Any]) -> Self:
        """Reads a tally from JSON."""
        return cls(Counter(tally["outcomes"]), tally["examples"])

    def add(self, name: str, outcome: str) -> None:
        """Counts one token."""
        self.outcomes[outcome] += 1
        if outcome not in REFUSALS and len(self.examples) < EXAMPLES:
            self.examples.append(f"{name[:SHOWN]} ({outcome})")

    def take(self, other: "Tally") -> None:
        """Adds another tally."""
        self.outcomes += other.outcomes
        self.examples += other.examples

    @property
    def refused(self) -> int:
        """How many were not accepted, for any reason."""
        return self.outcomes.total() - self.outcomes[ACCEPTED]

    def figures(self, name: str) -> list[Figure]:
        """Figures that all of them were refused, for a reason that is promised."""
        unhandled = self.refused - sum(self.outcomes[reason] for reason in REFUSALS)
        bad = ", ".join(self.examples[:EXAMPLES])
        return [
            tried(name, self.outcomes.total(), bad),
            Figure(f"{name}: accepted", self.outcomes[ACCEPTED], "", "=", 0),
            Figure(f"{name}: unhandled", unhandled, "", "=", 0),
        ]
