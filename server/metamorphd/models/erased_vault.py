"""Vaults that were deleted."""

from dataclasses import dataclass

from metamorphd.models.operation import Operation


@dataclass(frozen=True, slots=True)
class ErasedVault:
    """An entry of the erasure ledger. `life` distinguishes the vault from another one that had its ID or will have it.

    `delete_time` is in microseconds since the epoch.
    """

    vault_id: str
    life: str
    delete_time: int


@dataclass(frozen=True, slots=True)
class LedgerPosition:
    """A place in a file of the erasure ledger, in bytes. `tail` is a hash of what is before it.

    So a position says whether a file is the one that it was taken of, and has not been cut.
    """

    offset: int = 0
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Filed:
    """Entries that were appended to the file of a place in the ledger, from `begin` to `end`."""

    place: str
    entries: tuple[ErasedVault, ...]
    begin: LedgerPosition
    end: LedgerPosition


@dataclass(frozen=True, slots=True)
class Deletion:
    """A vault's deletion. `operation` erases it.

    `backups` counts the backups, and copies of them, that have the vault, and `expire_time` is when the last of them is
    deleted: None if there is none, or if the newest backup stays until an operator makes another one.
    """

    operation: Operation
    delete_time: int
    backups: int
    expire_time: int | None
