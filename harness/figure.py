"""A measured value and its bound."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

BOUNDS: dict[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge, "=": operator.eq}
NOT_MEASURED = math.inf


@dataclass(frozen=True)
class Figure:
    """`relation` is ≤, ≥, =, or empty if there is no bound. The name is constant; `detail` has what varies.

    Infinity stands for what was not measured, or never ended. It is within no bound, and neither is what is no number.
    """

    name: str
    value: float
    unit: str = ""
    relation: str = ""
    limit: float = 0.0
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the value is within its bound."""
        return not self.relation or (math.isfinite(self.value) and BOUNDS[self.relation](self.value, self.limit))

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        bound = f" ({self.relation} {self.limit:g})" if self.relation else ""
        value = f"{self.value:,.7g} {self.unit}".rstrip()
        return f"{self.name}{detail}: {value}{bound}{'' if self.met else '  NOT MET'}"


def tried(name: str, count: float, detail: str = "") -> Figure:
    """Returns the figure of how often something was tried or seen: if never, the faults that it had are no figures."""
    return Figure(name, count, "", "≥", 1, detail)
