"""Servers with one thing wrong, each of which a harness must find: `python -m harness.abuse.mutants NAME` serves so."""

import argparse
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from metamorphd import server
from metamorphd.auth import jwks, tokens
from metamorphd.auth.tokens import Token, TokenVerifier
from metamorphd.cli import cli
from metamorphd.edge import guards, streams
from metamorphd.edge.grpc import port
from metamorphd.edge.grpc.port import OPTIONS
from metamorphd.store.sqlite.transaction import SqliteTransaction

# What they change, untyped, because none of it is meant to be changed.
SERVER: Any = server
PORT: Any = port
GUARDS: Any = guards
STREAM: Any = streams.Stream
STREAMS: Any = streams.Streams
VERIFIER: Any = TokenVerifier
TOKENS: Any = tokens
JWKS: Any = jwks
TRANSACTION: Any = SqliteTransaction

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers what makes a server wrong."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[name] = apply
        return apply

    return register


@mutant("resets-are-free")
def _resets_are_free() -> None:
    limits = ("grpc.http2.ping_on_rst_stream_percent", "grpc.server.max_pending", "grpc.max_concurrent_streams")
    OPTIONS[:] = [option for option in OPTIONS if not option[0].startswith(limits)]


@mutant("unread-streams-stay")
def _unread_streams_stay() -> None:
    STREAMS._look = lambda _: None


@mutant("idle-streams-hold-pages")
def _idle_streams_hold_pages() -> None:
    held = []
    write_all = STREAM.write_all

    async def holding(self: streams.Stream, responses: AsyncIterator[Any]) -> None:
        held.append(bytearray(b"x" * 100_000))
        await write_all(self, responses)

    STREAM.write_all = holding


@mutant("malformed-requests-are-unhandled")
def _malformed_requests_are_unhandled() -> None:
    GUARDS.DecodeError = ZeroDivisionError


@mutant("one-path-stops-all")
def _one_path_stops_all() -> None:
    PORT.hardened_server = grpc.aio.server


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


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["none", *MUTANTS])
    parser.add_argument("--patience-seconds", type=float, default=streams.PATIENCE_SECONDS)
    arguments = parser.parse_args()
    SERVER.PATIENCE_SECONDS = arguments.patience_seconds
    if arguments.name in MUTANTS:
        MUTANTS[arguments.name]()
    cli(["serve"])


if __name__ == "__main__":
    _main()
