"""The result of checking the store for damage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """The results of checking the store for damage, which goes on in steps.

    `complete_time` is when all of it was last checked, or None. `faults` say what is damaged. `progress` is the share
    of tables and indexes that the check in progress has done, 1.0 if there is none.
    """

    complete_time: int | None = None
    faults: tuple[str, ...] = ()
    progress: float = 1.0
