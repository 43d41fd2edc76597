"""The ledger of erased vaults: what the database has of it, and how that differs from the ledger's files."""

from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from metamorphd.models.erased_vault import ErasedVault, Filed, LedgerPosition
from metamorphd.models.vault import VaultState
from metamorphd.store.database import Operation, P, Row, SystemTransaction, Transaction, grows, is_growing

T = TypeVar("T")

GET_LIFE = "SELECT hash_key FROM vaults WHERE vault_id = :vault_id"
ENTER_ERASED = """
INSERT INTO erased_vaults (vault_id, life, delete_time) VALUES (:vault_id, :life, :delete_time)
ON CONFLICT (vault_id, life) DO NOTHING
"""
QUEUE_FILING = """
INSERT INTO unfiled_entries (vault_id, life, place) VALUES (:vault_id, :life, :place)
ON CONFLICT (vault_id, life, place) DO NOTHING
"""
END_FILING = "DELETE FROM unfiled_entries WHERE vault_id = :vault_id AND life = :life AND place = :place"
FIND_UNERASED = """
SELECT vaults.hash_key FROM vaults LEFT JOIN vault_states ON vault_states.vault_id = vaults.vault_id
WHERE vaults.vault_id = :vault_id AND COALESCE(vault_states.state, '') <> :deleted
"""
LIST_ERASED = """
SELECT vault_id, life, delete_time FROM erased_vaults
WHERE (vault_id, life) > (:after_vault_id, :after_life)
ORDER BY vault_id, life
LIMIT :limit
"""
LIST_UNFILED = """
SELECT erased_vaults.vault_id, erased_vaults.life, erased_vaults.delete_time, unfiled_entries.place
FROM unfiled_entries JOIN erased_vaults
    ON erased_vaults.vault_id = unfiled_entries.vault_id AND erased_vaults.life = unfiled_entries.life
ORDER BY unfiled_entries.vault_id, unfiled_entries.life, unfiled_entries.place
LIMIT :limit
"""
GET_LEDGER_POSITION = "SELECT offset, tail FROM ledger_files WHERE place = :place"
PUT_LEDGER_POSITION = """
INSERT INTO ledger_files (place, offset, tail) VALUES (:place, :offset, :tail)
ON CONFLICT (place) DO UPDATE SET offset = excluded.offset, tail = excluded.tail
"""
ADVANCE_LEDGER = """
UPDATE ledger_files SET offset = :offset, tail = :tail
WHERE place = :place AND offset = :begin_offset AND tail = :begin_tail
"""

_living: dict[Any, Any] = {}


def life_of(hash_key: bytes) -> str:
    """Returns what distinguishes a vault's life, from 32 random bytes that no other life has."""
    return sha256(b"metamorph vault\0" + hash_key).hexdigest()[:32]


async def get_life(tx: Transaction) -> str | None:
    """Returns the life of the vault, or None if it has none."""
    stored = await tx.one(GET_LIFE)
    return None if stored is None else life_of(stored.hash_key)


def living(operation: Operation[P, T]) -> Operation[P, tuple[T, str | None]]:
    """Returns an operation that returns the vault's life too, in which it took place."""
    if operation not in _living:

        async def run(tx: Transaction, *args: P.args, **kwargs: P.kwargs) -> tuple[T, str | None]:
            return await operation(tx, *args, **kwargs), await get_life(tx)

        # By which it is traced.
        run.__name__ = operation.__name__
        _living[operation] = grows(run) if is_growing(operation) else run
    made: Operation[P, tuple[T, str | None]] = _living[operation]
    return made


async def enter_vault(tx: Transaction, *, life: str, places: Collection[str], now: int) -> None:
    """Enters the vault in the ledger. The files of all places lack it."""
    await tx.run(ENTER_ERASED, life=life, delete_time=now)
    for place in places:
        await tx.run(QUEUE_FILING, life=life, place=place)


async def enter_entries(
    tx: SystemTransaction, *, place: str, places: Collection[str], entries: Sequence[ErasedVault]
) -> list[ErasedVault]:
    """Enters what was read in the file of a place. Returns the entries whose vaults are there, and not deleted.

    So they are after a restore from a backup that was made before their deletion. Of what is new here, the files of the
    other places may have nothing.
    """
    unerased = []
    for entry in entries:
        new = await tx.run(ENTER_ERASED, vault_id=entry.vault_id, life=entry.life, delete_time=entry.delete_time)
        for other in places if new else ():
            if other != place:
                await tx.run(QUEUE_FILING, vault_id=entry.vault_id, life=entry.life, place=other)
        await tx.run(END_FILING, vault_id=entry.vault_id, life=entry.life, place=place)
        stored = await tx.one(FIND_UNERASED, vault_id=entry.vault_id, deleted=VaultState.DELETED)
        if stored is not None and life_of(stored.hash_key) == entry.life:
            unerased.append(entry)
    return unerased


async def queue_entries(tx: SystemTransaction, *, place: str, entries: Sequence[ErasedVault]) -> None:
    """Has entries filed again: the file of the place may have lost them."""
    for entry in entries:
        await tx.run(QUEUE_FILING, vault_id=entry.vault_id, life=entry.life, place=place)


async def list_erased_vaults(tx: SystemTransaction, *, after: tuple[str, str], limit: int) -> list[ErasedVault]:
    """Returns entries of the ledger, in the order of (vault, life), from the first one after `after`."""
    rows = await tx.all(LIST_ERASED, after_vault_id=after[0], after_life=after[1], limit=limit)
    return list(map(_entry, rows))


async def list_unfiled(tx: SystemTransaction, *, limit: int) -> dict[str, list[ErasedVault]]:
    """Returns entries that files may lack, by the place of the file, the first of all."""
    found: dict[str, list[ErasedVault]] = {}
    for row in await tx.all(LIST_UNFILED, limit=limit):
        found.setdefault(row.place, []).append(_entry(row))
    return found


async def end_filing(tx: SystemTransaction, *, filed: Sequence[Filed]) -> None:
    """Removes from the queue what files have now. What is known to be read of them goes on, if that was all of them."""
    for part in filed:
        for entry in part.entries:
            await tx.run(END_FILING, vault_id=entry.vault_id, life=entry.life, place=part.place)
        await tx.run(
            ADVANCE_LEDGER,
            place=part.place,
            offset=part.end.offset,
            tail=part.end.tail,
            begin_offset=part.begin.offset,
            begin_tail=part.begin.tail,
        )


async def get_ledger_position(tx: SystemTransaction, *, place: str) -> LedgerPosition | None:
    """Returns how far the file of a place was read, or None if it never was."""
    row = await tx.one(GET_LEDGER_POSITION, place=place)
    return None if row is None else LedgerPosition(row.offset, row.tail)


async def put_ledger_position(tx: SystemTransaction, *, place: str, position: LedgerPosition) -> None:
    """Stores how far the file of a place was read."""
    await tx.run(PUT_LEDGER_POSITION, place=place, offset=position.offset, tail=position.tail)


def _entry(row: Row) -> ErasedVault:
    return ErasedVault(row.vault_id, row.life, row.delete_time)
