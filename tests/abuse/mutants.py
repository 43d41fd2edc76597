"""Servers with one thing wrong, each of which a harness must find: `python -m tests.abuse.mutants NAME` serves so."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from metamorphd.auth import jwks, tokens
from metamorphd.auth.tokens import Token, TokenVerifier
from metamorphd.cli import cli
from metamorphd.interceptors.interceptor import Interceptor
from metamorphd.store.sqlite.transaction import SqliteTransaction

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers what makes a server wrong."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[name] = apply
        return apply

    return register


@mutant("calls-outlive-their-callers")
def _calls_outlive_their_callers() -> None:
    held = []
    run = Interceptor._run

    async def holding(self: Interceptor, *args: Any, **kwargs: Any) -> Any:
        held.append(bytearray(4096))
        return await run(self, *args, **kwargs)

    Interceptor._run = holding  # type: ignore[method-assign]


# Loosely typed: what is done to them here no type allows.
VERIFIER: Any = TokenVerifier
TOKENS: Any = tokens
JWKS: Any = jwks
TRANSACTION: Any = SqliteTransaction


@mutant("audience-unchecked")
def _audience_unchecked() -> None:
    made = VERIFIER.__init__

    def forgetting(self: Any, **parts: Any) -> None:
        made(self, **parts | {"audience": None})

    VERIFIER.__init__ = forgetting


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


@mutant("algorithm-unpinned")
def _algorithm_unpinned() -> None:
    verified_claims = VERIFIER._verified_claims

    def trusting(self: Any, token: Token, key: Any, _: str) -> Any:
        return verified_claims(self, token, key, token.header["alg"])

    VERIFIER._verified_claims = trusting
    TOKENS.ALGORITHMS = _Everything()
    JWKS._for = lambda _, key: key.key


def _of_all_vaults(sql: str) -> str:
    return re.sub(r"((?:\w+\.)?vault_id) = :vault_id", r"(\1 = :vault_id OR TRUE)", sql)


@mutant("vault-filter-dropped")
def _vault_filter_dropped() -> None:
    one, all_rows = TRANSACTION.one, TRANSACTION.all

    async def one_of_all(self: Any, sql: str, /, **parameters: Any) -> Any:
        return await one(self, _of_all_vaults(sql), **parameters)

    async def all_of_all(self: Any, sql: str, /, **parameters: Any) -> Any:
        return await all_rows(self, _of_all_vaults(sql), **parameters)

    TRANSACTION.one, TRANSACTION.all = one_of_all, all_of_all


def _dawdle() -> None:
    time.sleep(0.004)


@mutant("foreign-ids-take-longer")
def _foreign_ids_take_longer() -> None:
    one = TRANSACTION.one

    async def looking_twice(self: Any, sql: str, /, **parameters: Any) -> Any:
        row = await one(self, sql, **parameters)
        if row is None and sql.startswith("SELECT") and await one(self, _of_all_vaults(sql), **parameters):
            _dawdle()
        return row

    TRANSACTION.one = looking_twice


if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    cli(["serve"])
