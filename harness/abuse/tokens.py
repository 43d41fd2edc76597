"""Tokens that must be refused: crafted ones by class and mutated valid ones, on the wire and in the verifier."""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from metamorph_client.vault.v1 import vault_service_pb2_grpc
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from harness.abuse.crafted import crafted
from harness.abuse.jose import AUDIENCE, ISSUER, OLDER_SECRET, SECRET, Keys
from harness.abuse.mutations import Mutations
from harness.abuse.subject import Subject, subject
from harness.abuse.tally import ACCEPTED, Tally
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.certificates import Authority
from tests.support.fakes.web import FakeWeb, answering
from tests.support.paths import ROOT
from tests.support.refusal import Refusal

PROCESSES = 2
CONCURRENCY = 16
# One of so many mutated tokens is sent over the wire too.
WIRE_SHARE = 200
# gRPC refuses more metadata (8 KiB), and clients send printable ASCII only.
LONGEST_SENT = 7000


async def attack(run: Run, *, mutants_count: int) -> list[Figure]:
    """Tries every class and many mutated tokens; counts what was accepted and what was not refused as promised."""
    keys = Keys.generate()
    keys.save(run.directory / "keys.json")
    classes = crafted(keys)
    first, *others = range(run.seed * (PROCESSES + 1), (run.seed + 1) * (PROCESSES + 1))
    mutations = filter(_sendable, Mutations(keys.valid(), keys, seed=first))
    mutants = itertools.islice(mutations, mutants_count // WIRE_SHARE)
    async with _provider(run.directory, keys) as environment:
        with subject(run.directory, mutant=run.mutant, environment=environment) as server:
            valid = await _answers(server, ((text, text) for text in keys.valid()))
            sent = await _answers(server, (pair for pair in classes.items() if _sendable(pair[1])))
            mutated = await _answers(server, ((text, text) for text in mutants))
            failures = sum(line.get("code") == "INTERNAL" or line["level"] == "error" for line in server.lines())
        verified = await _verified(run, environment, mutants_count, others)
    return [
        Figure("classes of crafted tokens", len(classes), "", "≥", 60),
        *sent.figures("crafted tokens on the wire"),
        *verified["crafted"].figures("crafted tokens in the verifier"),
        *mutated.figures("mutated tokens on the wire"),
        *verified["mutants"].figures("mutated tokens in the verifier"),
        Figure("log lines that report a failure", failures, "", "=", 0),
        tried("valid tokens", valid.outcomes.total()),
        # Otherwise nothing above would mean anything.
        Figure("valid tokens that were refused", valid.refused + verified["valid"].refused, "", "=", 0),
    ]


@asynccontextmanager
async def _provider(directory: Path, keys: Keys) -> AsyncIterator[dict[str, str]]:
    """Yields the environment of a server that trusts an identity provider; it publishes the keys during the block."""
    authority = Authority(directory)
    async with FakeWeb(answering(keys.published()), tls=authority.issue()) as provider:
        yield {
            "EMBLEM_JWT_SECRET": SECRET,
            "EMBLEM_JWT_SECRET_PREVIOUS": OLDER_SECRET,
            "EMBLEM_JWT_ISSUER": ISSUER,
            "EMBLEM_JWT_AUDIENCE": AUDIENCE,
            "EMBLEM_JWKS_URL": f"{provider.url}/keys",
            "EMBLEM_API_URL": "",
            "SSL_CERT_FILE": str(authority.certificate),
        }


async def _answers(server: Subject, tokens: Iterable[tuple[str, str]]) -> Tally:
    """Counts WhoAmI's answers to named tokens; a refusal that is not UNAUTHENTICATED counts by its code."""
    waiting, answers = iter(tokens), Tally()

    async def ask() -> None:
        for name, token in waiting:
            try:
                await stub.WhoAmI(WhoAmIRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10)
                answers.add(name, ACCEPTED)
            except grpc.aio.AioRpcError as error:
                refusal = Refusal(error)
                unauthenticated = refusal.code is grpc.StatusCode.UNAUTHENTICATED
                answers.add(name, refusal.reason if unauthenticated else refusal.code.name)

    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = vault_service_pb2_grpc.VaultServiceStub(channel)
        await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
    return answers


def _sendable(token: str) -> bool:
    return len(token) <= LONGEST_SENT and token.isascii() and token.isprintable() and token == token.strip()


async def _verified(run: Run, environment: Mapping[str, str], count: int, seeds: Sequence[int]) -> dict[str, Tally]:
    """Counts the verifier's outcomes, in processes of its own."""
    arguments = [str(run.directory / "keys.json"), str(count // PROCESSES)]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "harness.abuse.verifying", *arguments, str(seed), run.mutant,
            cwd=ROOT, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
        )
        for seed in seeds
    ]  # fmt: skip
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    first, *others = [
        {name: Tally.from_json(tally) for name, tally in json.loads(output).items()} for output, _ in outputs
    ]
    for other in others:
        # The crafted ones are the same in each process.
        first["valid"].take(other["valid"])
        first["mutants"].take(other["mutants"])
    return first
