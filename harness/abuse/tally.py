"""What became of many tokens."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from harness.figure import Figure

ACCEPTED = "accepted"
REFUSALS = ("TOKEN_INVALID", "TOKEN_EXPIRED")
EXAMPLES = 3
SHOWN = 120


@dataclass
class Tally:
    """How often each outcome was met, `accepted` or the reason of a refusal; of others a few are named."""

    outcomes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @classmethod
    def told(cls, told: dict[str, Any]) -> Self:
        """From JSON."""
        return cls(Counter(told["outcomes"]), told["examples"])

    def add(self, name: str, outcome: str) -> None:
        """Counts one."""
        self.outcomes[outcome] += 1
        if outcome not in REFUSALS and len(self.examples) < EXAMPLES:
            self.examples.append(f"{name[:SHOWN]} ({outcome})")

    def take(self, other: "Tally") -> None:
        """Counts what another has."""
        self.outcomes += other.outcomes
        self.examples += other.examples

    @property
    def refused(self) -> int:
        """How many were not accepted, for whatever reason."""
        return self.outcomes.total() - self.outcomes[ACCEPTED]

    def figures(self, name: str) -> list[Figure]:
        """How many, and that all of them were refused in the way that is promised."""
        unhandled = self.refused - sum(self.outcomes[reason] for reason in REFUSALS)
        bad = ", ".join(self.examples[:EXAMPLES])
        return [
            Figure(name, self.outcomes.total(), detail=bad),
            Figure(f"{name}: accepted", self.outcomes[ACCEPTED], "", "=", 0),
            Figure(f"{name}: unhandled", unhandled, "", "=", 0),
        ]
