"""Faults of what keeps one vault's work from being felt by another."""

from typing import Any

from metamorphd.audit import verification
from metamorphd.edge import guards
from metamorphd.edge.grpc import port
from metamorphd.store import erasure, vault_erasure
from metamorphd.store.sqlite import log, readers, writer
from metamorphd.transfers import pages

from harness.mutants import Patch, mutant

# Untyped, because none of it is meant to be changed.
READERS: Any = readers
GUARDS: Any = guards
PORT: Any = port
ERASURE: Any = erasure
VAULT_ERASURE: Any = vault_erasure
LOG: Any = log
WRITER: Any = writer
VERIFICATION: Any = verification
EXPORT_PAGES: Any = pages

HARNESS = "expensive-neighbour"
P99 = "p99 of the neighbour, to its idle p99"
GAP = "longest gap in a stream, beyond the pace"
MEMORY = "memory growth"
COMPRESSED = "compressed requests that were read"
WAL = "largest write-ahead log"
FOREVER_SECONDS = 3_600.0
# Of `long_calls`, from 1.
EXPORT, VERIFICATION_PHASE = 1, 3
# A tenth of the session that is deleted, whose words take the writer seconds.
LONG_STEP = {"STEP_MESSAGES": 2_000, "STEP_WORDS": 2**31, "STEP_BYTES": 2**31}


@mutant("any-request-is-parsed", harness=HARNESS, shown_by={GAP, MEMORY}, alone=True, idle_seconds=1)
def _any_request_is_parsed(patch: Patch) -> None:
    patch(GUARDS.LimitSize, "__call__", lambda *_: None)
    patch(GUARDS, "LARGEST_INLINE", float("inf"))


@mutant("deletion-in-long-steps", harness=HARNESS, shown_by={P99, GAP}, alone=True)
def _deletion_in_long_steps(patch: Patch) -> None:
    for name in ("STEP_MESSAGES", "STEP_WORDS", "STEP_BYTES"):
        patch(ERASURE, name, LONG_STEP[name])
    # Nor is it stopped, neither while it reads nor while it writes.
    patch(READERS, "READ_STEPS", 2**31 - 1)
    patch(WRITER, "JOB_SECONDS", FOREVER_SECONDS)
    patch(READERS, "READ_SECONDS", FOREVER_SECONDS)


@mutant("vault-erased-in-long-steps", harness="leaving-vault", shown_by={P99, GAP}, alone=True)
def _vault_erased_in_long_steps(patch: Patch) -> None:
    for name in ("STEP_ROWS", "STEP_SIZED_ROWS", "STEP_BYTES"):
        patch(VAULT_ERASURE, name, 2**31)
    patch(WRITER, "JOB_SECONDS", FOREVER_SECONDS)


@mutant("some-of-a-vault-is-kept", harness="leaving-vault", shown_by={"rows that are left"}, idle_seconds=1)
def _some_of_a_vault_is_kept(patch: Patch) -> None:
    patch(VAULT_ERASURE, "ERASE_POSTINGS", VAULT_ERASURE.ERASE_POSTINGS.replace(":limit", "0 * :limit"))


@mutant(
    "exports-are-read-at-once", harness="long-work", shown_by={P99, GAP, MEMORY}, alone=True, only=EXPORT, seconds=6
)
def _exports_are_read_at_once(patch: Patch) -> None:
    patch(EXPORT_PAGES, "PAGE_BYTES", 2**31)
    patch(READERS, "READ_STEPS", 2**31 - 1)
    patch(READERS, "READ_SECONDS", FOREVER_SECONDS)


@mutant(
    "verification-holds-the-loop",
    harness="long-work",
    shown_by={P99, GAP, MEMORY},
    alone=True,
    only=VERIFICATION_PHASE,
    seconds=6,
)
def _verification_holds_the_loop(patch: Patch) -> None:
    for name in ("PAGE_ENTRIES", "STEP_ENTRIES"):
        patch(VERIFICATION, name, 2**31)


@mutant("log-is-never-copied", harness=HARNESS, shown_by={WAL}, idle_seconds=1)
def _log_is_never_copied(patch: Patch) -> None:
    for name in ("COPY_BYTES", "FULL_BYTES"):
        patch(LOG, name, float("inf"))


@mutant("compressed-requests", harness=HARNESS, shown_by={COMPRESSED}, idle_seconds=1)
def _compressed_requests(patch: Patch) -> None:
    patch(
        PORT,
        "OPTIONS",
        [option for option in PORT.OPTIONS if option[0] != "grpc.compression_enabled_algorithms_bitset"],
    )
