"""Mutated tokens against the verifier that the server builds.

`python -m harness.abuse.verifying KEYS COUNT SEED MUTANT`; an empty MUTANT is none. Settings come from
the environment, as the server's do. Prints the outcomes as JSON.
"""

import asyncio
import itertools
import json
import sys
from pathlib import Path

from metamorphd.auth import jwks
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.tokens import TokenVerifier
from metamorphd.clock import Clock
from metamorphd.composition.authentication import verifying
from metamorphd.errors import Unauthenticated
from metamorphd.models.caller import Caller
from metamorphd.settings import loading

import harness.abuse.mutants  # noqa: F401, registers them
from harness.abuse.crafted import crafted
from harness.abuse.jose import Keys
from harness.abuse.mutations import Mutations
from harness.abuse.tally import ACCEPTED, Tally
from harness.mutants import mutate


async def outcome(verifier: TokenVerifier, text: str) -> str:
    """Returns `accepted`, the reason of the refusal, or the text of any other exception."""
    try:
        verified = verifier.verify(text)
        if not isinstance(verified, Caller):
            await verified.verify("")
    except Unauthenticated as refusal:
        return refusal.reason_name()
    # Any other exception: finding one is the point.
    except BaseException as exc:
        return f"unhandled: {exc!r:.200}"
    return ACCEPTED


async def main(keys: Keys, *, count: int, seed: int) -> dict[str, Tally]:
    """Counts the outcomes of valid, crafted and mutated tokens."""
    revoked_tokens = RevokedTokens()
    revoked_tokens.load([])
    # A token with an unknown key id waits for the next fetch. Here one comes after the other, from a provider of ours.
    jwks.COOLDOWN_SECONDS = 0.0
    async with verifying(loading.load(), clock=Clock(), revoked_tokens=revoked_tokens) as verifier:
        return await _tally(verifier, keys, count=count, seed=seed)


async def _tally(verifier: TokenVerifier, keys: Keys, *, count: int, seed: int) -> dict[str, Tally]:
    tallies = {name: Tally() for name in ("valid", "crafted", "mutants")}
    for text in keys.valid():
        tallies["valid"].add(text, await outcome(verifier, text))
    for name, text in crafted(keys).items():
        tallies["crafted"].add(name, await outcome(verifier, text))
    for text in itertools.islice(Mutations(keys.valid(), keys, seed=seed), count):
        tallies["mutants"].add(text, await outcome(verifier, text))
    return tallies


if __name__ == "__main__":
    mutate(sys.argv[4])
    tallies = asyncio.run(main(Keys.load(Path(sys.argv[1])), count=int(sys.argv[2]), seed=int(sys.argv[3])))
    sys.stdout.write(json.dumps({name: vars(tally) for name, tally in tallies.items()}))
