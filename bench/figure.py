"""A row of the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measurement. `met` is None where there is no target, or no figure."""

    measure: str
    ours: str
    reference: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None
