"""Whoever can write the database cannot have a secret read that was not put there."""

import random
from collections import Counter
from pathlib import Path

from tests.support.sealed import CHANGES, sealed

ATTEMPTS = 400


async def test_nothing_that_was_moved_or_changed_can_be_read(tmp_path: Path) -> None:
    randomness, decrypted, tried = random.Random(1), Counter[str](), Counter[str]()  # noqa: S311, repeatable
    async with sealed(tmp_path) as secrets:
        for number in range(ATTEMPTS):
            name = list(CHANGES)[number % len(CHANGES)]
            place, other = randomness.sample(secrets.places, 2)
            tried[name] += 1
            decrypted[name] += await secrets.decrypts(place, other, CHANGES[name], randomness)
        for vault, name, version in secrets.places:
            assert await secrets.value((vault, name, version)) == f"{vault} {name} {version}".encode()
    assert min(tried.values()) > 30
    assert +decrypted == Counter()
