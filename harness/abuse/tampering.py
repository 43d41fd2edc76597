"""Somebody who can write the database moves and changes secrets, and asks for them: no value is ever returned.

Values, wrapped keys and IDs go between rows, columns, versions and vaults, and bits are changed.
"""

import random
from collections import Counter

from structlog.testing import capture_logs

from harness.figure import Figure, tried
from harness.mutants import mutate, patching
from harness.run import Run
from tests.support.sealed import CHANGES, sealed


async def attack(run: Run, *, attempts: int) -> list[Figure]:
    """Changes what is stored of a random secret, asks for it, and undoes the change."""
    randomness, decrypted = random.Random(run.seed), Counter[str]()  # noqa: S311, repeatable
    # Each refusal is logged.
    with patching() as patch, capture_logs():
        mutate(run.mutant, patch)
        async with sealed(run.directory) as secrets:
            for number in range(attempts):
                name = list(CHANGES)[number % len(CHANGES)]
                place, other = randomness.sample(secrets.places, 2)
                decrypted[name] += await secrets.decrypts(place, other, CHANGES[name], randomness)
            right = [await secrets.value(place) == f"{' '.join(map(str, place))}".encode() for place in secrets.places]
    return [
        tried("secrets that were changed", attempts, f"in {len(CHANGES)} ways"),
        Figure("changed secrets that were read", decrypted.total(), "", "=", 0, ", ".join(+decrypted)),
        Figure("unchanged secrets that were read wrongly", right.count(False), "", "=", 0),
    ]
