"""Somebody who can write where heads are kept alters them, or their time stamps: a verification finds it every time."""

import random
from collections import Counter

from harness.figure import Figure, tried
from harness.mutants import mutate, patching
from harness.run import Run
from tests.support.forged_stamps import FORGERIES, StampedFile


async def attack(run: Run, *, attempts: int) -> list[Figure]:
    """Alters a file of heads and tokens of a real authority in a random way, so many times, and has it judged."""
    randomness, missed = random.Random(run.seed), Counter[str]()  # noqa: S311, repeatable
    with patching() as patch:
        mutate(run.mutant, patch)
        file = StampedFile(run.directory)
        for _ in range(attempts):
            name = randomness.choice(list(FORGERIES))
            missed[name] += not file.found(FORGERIES[name], randomness)
        wrong = sum(bool(stamp.fault) for stamp in file.judged())
    return [
        tried("heads and time stamps that were altered", attempts, f"in {len(FORGERIES)} ways"),
        Figure("alterations that were not found", missed.total(), "", "=", 0, ", ".join(+missed)),
        Figure("faults of time stamps that were not altered", wrong, "", "=", 0),
    ]
