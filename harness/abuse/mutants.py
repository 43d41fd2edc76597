"""Faults of the ports, of token verification, of tenant isolation, of secrets and of the audit."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import structlog
from metamorphd import process
from metamorphd.audit import timestamps
from metamorphd.audit.verification import Position, Verification
from metamorphd.auth import jwks, tokens
from metamorphd.auth.decoding import Token
from metamorphd.auth.tokens import TokenVerifier
from metamorphd.chain import Chain, Entry
from metamorphd.cli.anchors import Anchors
from metamorphd.edge import guards, streams
from metamorphd.edge.grpc import port
from metamorphd.edge.grpc.port import OPTIONS
from metamorphd.edge.http import protocol
from metamorphd.keys import sealing
from metamorphd.keys.vault_keys import VaultKey
from metamorphd.models.audit import AuditReport
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.sqlite.transaction import SqliteTransaction
from metamorphd.transfers.sealing import Recipient

from harness.mutants import Patch, mutant

# Untyped, because none of it is meant to be changed.
PROCESS: Any = process
PORT: Any = port
PROTOCOL: Any = protocol
GUARDS: Any = guards
STREAM: Any = streams.Stream
STREAMS: Any = streams.Streams
VERIFIER: Any = TokenVerifier
TOKENS: Any = tokens
JWKS: Any = jwks
TRANSACTION: Any = SqliteTransaction
SEALING: Any = sealing
VAULT_KEY: Any = VaultKey
CHAIN: Any = Chain
VERIFICATION: Any = Verification
SECRETS: Any = Secrets
RECIPIENT: Any = Recipient
TIMESTAMPS: Any = timestamps
ANCHORS: Any = Anchors

VALUES = "values that were found"


@mutant("resets-are-free", harness="rapid-reset", shown_by={"memory growth"}, alone=True, seconds=10)
def _resets_are_free(_: Patch) -> None:
    # In place: other modules hold the list itself.
    OPTIONS[:] = [option for option in OPTIONS if option[0] != "grpc.max_concurrent_streams"]


@mutant("unread-streams-stay", harness="unread-streams", shown_by={"clients cut"})
def _unread_streams_stay(patch: Patch) -> None:
    patch(STREAMS, "_look", lambda _: None)


@mutant("idle-streams-hold-pages", harness="idle-streams", shown_by={"memory growth"})
def _idle_streams_hold_pages(patch: Patch) -> None:
    held = []
    write_all = STREAM.write_all

    async def holding(self: streams.Stream, *arguments: Any, **named: Any) -> None:
        held.append(bytearray(b"x" * 100_000))
        await write_all(self, *arguments, **named)

    patch(STREAM, "write_all", holding)


@mutant("descriptors-as-by-default", harness="half-open", shown_by={"calls on new connections that failed"})
def _descriptors_as_by_default(patch: Patch) -> None:
    patch(PROCESS, "raise_descriptor_limit", lambda: None)


@mutant("half-sent-requests-stay", harness="half-open", shown_by={"requests of /health that failed"}, half_sent=2500)
def _half_sent_requests_stay(patch: Patch) -> None:
    patch(PROTOCOL.Connections, "open", lambda *_: None)
    patch(PROTOCOL, "REQUEST_SECONDS", float("inf"))


@mutant("malformed-requests-are-unhandled", harness="fuzz", shown_by={"calls that ended INTERNAL or UNKNOWN"})
def _malformed_requests_are_unhandled(patch: Patch) -> None:
    patch(GUARDS, "DecodeError", ZeroDivisionError)


@mutant("one-path-stops-all", harness="fuzz", shown_by={"neighbour's calls that failed"})
def _one_path_stops_all(patch: Patch) -> None:
    patch(PORT, "hardened_server", grpc.aio.server)


@mutant("audience-unchecked", harness="tokens", shown_by={"crafted tokens in the verifier: accepted"})
def _audience_unchecked(patch: Patch) -> None:
    made = VERIFIER.__init__

    def forgetting(self: Any, **parts: Any) -> None:
        made(self, **parts | {"audience": None})

    patch(VERIFIER, "__init__", forgetting)


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


@mutant("algorithm-unpinned", harness="tokens", shown_by={"crafted tokens in the verifier: accepted"})
def _algorithm_unpinned(patch: Patch) -> None:
    verified_claims = VERIFIER._verified_claims

    def trusting(self: Any, token: Token, key: Any, _: str) -> Any:
        return verified_claims(self, token, key, token.header["alg"])

    patch(VERIFIER, "_verified_claims", trusting)
    patch(TOKENS, "ALGORITHMS", _Everything())
    patch(JWKS, "_for", lambda _, keys: keys)


def _of_all_vaults(sql: str) -> str:
    return re.sub(r"((?:\w+\.)?vault_id) = :vault_id", r"(\1 = :vault_id OR TRUE)", sql)


@mutant("vault-filter-dropped", harness="isolation", shown_by={"foreign bytes in answers"})
def _vault_filter_dropped(patch: Patch) -> None:
    one, all_rows = TRANSACTION.one, TRANSACTION.all

    async def one_of_all(self: Any, sql: str, /, **parameters: Any) -> Any:
        return await one(self, _of_all_vaults(sql), **parameters)

    async def all_of_all(self: Any, sql: str, /, **parameters: Any) -> Any:
        return await all_rows(self, _of_all_vaults(sql), **parameters)

    patch(TRANSACTION, "one", one_of_all)
    patch(TRANSACTION, "all", all_of_all)


def _dawdle() -> None:
    time.sleep(0.004)


@mutant("foreign-ids-take-longer", harness="isolation", shown_by={"largest ratio of their median times"}, alone=True)
def _foreign_ids_take_longer(patch: Patch) -> None:
    one = TRANSACTION.one

    async def looking_twice(self: Any, sql: str, /, **parameters: Any) -> Any:
        row = await one(self, sql, **parameters)
        if row is None and sql.startswith("SELECT") and await one(self, _of_all_vaults(sql), **parameters):
            _dawdle()
        return row

    patch(TRANSACTION, "one", looking_twice)


@mutant("secrets-are-bound-to-nothing", harness="tampering", shown_by={"changed secrets that were read"})
def _secrets_are_bound_to_nothing(patch: Patch) -> None:
    patch(SEALING, "_associated", lambda _: b"")


@mutant("secrets-are-bound-to-names-only", harness="tampering", shown_by={"changed secrets that were read"})
def _secrets_are_bound_to_names_only(patch: Patch) -> None:
    patch(VAULT_KEY, "_binding", lambda _, place: (place.name,))


@mutant("entries-are-chained-to-nothing", harness="forging", shown_by={"alterations that were not found"})
def _entries_are_chained_to_nothing(patch: Patch) -> None:
    mac_of = CHAIN.mac_of
    patch(CHAIN, "mac_of", lambda self, _, entry, key_id: mac_of(self, b"", entry, key_id))


@mutant("details-are-not-authenticated", harness="forging", shown_by={"alterations that were not found"})
def _details_are_not_authenticated(patch: Patch) -> None:
    mac_of = CHAIN.mac_of
    patch(CHAIN, "mac_of", lambda self, mac, entry, key_id: mac_of(self, mac, entry._replace(detail=""), key_id))


@mutant("revisions-are-not-authenticated", harness="forging", shown_by={"alterations that were not found"})
def _revisions_are_not_authenticated(patch: Patch) -> None:
    mac_of = CHAIN.mac_of

    def of_any_revision(self: Chain, _: bytes, entry: Entry, key_id: str) -> Any:
        return mac_of(self, b"", entry._replace(revision=0), key_id)

    patch(CHAIN, "mac_of", of_any_revision)


@mutant("logs-begin-anywhere", harness="forging", shown_by={"alterations that were not found"})
def _logs_begin_anywhere(patch: Patch) -> None:
    checked = VERIFICATION._checked

    def from_the_first(self: Verification, stored: Any, position: Position, report: Any) -> Any:
        beginning = position.revision < stored.entry.revision - 1
        return checked(
            self,
            stored,
            position._replace(revision=stored.entry.revision - 1, broken=int(beginning or position.broken)),
            report,
        )

    patch(VERIFICATION, "_checked", from_the_first)


@mutant("tokens-are-of-anything", harness="stamps", shown_by={"alterations that were not found"})
def _tokens_are_of_anything(patch: Patch) -> None:
    patch(TIMESTAMPS, "_stamped", lambda _: b"heads")


@mutant("stamped-heads-may-be-gone", harness="stamps", shown_by={"alterations that were not found"})
def _stamped_heads_may_be_gone(patch: Patch) -> None:
    judged = ANCHORS.judged

    def lenient(self: Any, trusted: Any) -> Any:
        return (replace(each, fault="") if each.time is not None else each for each in judged(self, trusted))

    patch(ANCHORS, "judged", lenient)


@mutant("anchors-are-not-looked-for", harness="forging", shown_by={"alterations that were not found"})
def _anchors_are_not_looked_for(patch: Patch) -> None:
    async def nothing(_self: Verification, _scope: Any, _anchors: Any) -> AuditReport:
        return AuditReport()

    patch(VERIFICATION, "compare", nothing)


def _putting(act: Callable[[Any, Any, bytes], None]) -> Callable[..., Any]:
    """Returns what puts a secret, and does something with its value before."""
    put = SECRETS.put

    async def putting(self: Any, scope: Any, new: Any, *, value: bytes, request: Any) -> Any:
        act(scope, new, value)
        return await put(self, scope, new, value=value, request=request)

    return putting


@mutant("spans-have-values", harness="canaries", shown_by={VALUES})
def _spans_have_values(patch: Patch) -> None:
    patch(SECRETS, "put", _putting(lambda scope, _, value: scope.span.describe({"value": value.hex()})))


@mutant("log-lines-have-values", harness="canaries", shown_by={VALUES})
def _log_lines_have_values(patch: Patch) -> None:
    patch(SECRETS, "put", _putting(lambda _, new, value: structlog.get_logger().debug("put", value=value.hex())))


@mutant("labels-have-values", harness="canaries", shown_by={VALUES})
def _labels_have_values(patch: Patch) -> None:
    patch(SECRETS, "put", _putting(lambda _, new, value: new.labels.update(value=value.hex())))


@mutant("exports-have-values", harness="canaries", shown_by={VALUES})
def _exports_have_values(patch: Patch) -> None:
    patch(RECIPIENT, "seal", lambda _, value: value)
