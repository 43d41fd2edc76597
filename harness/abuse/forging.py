"""Somebody who can write the database, and has no key, alters the logs of vaults: a verification finds it every time.

Entries are edited, left out, reordered, added, moved between vaults, cut off at either end, and robbed of their MACs.
"""

import random
from collections import Counter

from harness.figure import Figure, tried
from harness.mutants import mutate, patching
from harness.run import Run
from tests.support.forged import FORGERIES, VAULTS, forgeable


async def attack(run: Run, *, attempts: int) -> list[Figure]:
    """Alters a random log in a random way, has it verified, and undoes that, until so many could have been found."""
    randomness, missed, tries, beyond = random.Random(run.seed), Counter[str](), 0, 0  # noqa: S311, repeatable
    with patching() as patch:
        mutate(run.mutant, patch)
        async with forgeable(run.directory) as logs:
            while tries < attempts:
                name = randomness.choice(list(FORGERIES))
                found = await logs.found(randomness.choice(VAULTS), FORGERIES[name], randomness)
                if found is None:
                    beyond += 1
                else:
                    tries += 1
                    missed[name] += not found
            wrong = [len((await logs.verified(vault)).faults) for vault in VAULTS]
    return [
        tried("logs that were altered", attempts, f"in {len(FORGERIES)} ways"),
        Figure("alterations that were not found", missed.total(), "", "=", 0, ", ".join(+missed)),
        Figure("faults of logs that were not altered", sum(wrong), "", "=", 0),
        Figure("truncations after the last anchor, which nobody can find, and edits without effect", beyond, ""),
    ]
