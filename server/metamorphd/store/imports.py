"""The ends of an import: what is staged is revealed, or erased, in steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.imports import Imported, ImportState
from metamorphd.models.vault import VaultState
from metamorphd.store.attachments import append_attachment_change
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction, concludes, grows
from metamorphd.store.erasures import Resource, queue_erasure
from metamorphd.store.idempotency import GET_HASH_KEY
from metamorphd.store.memories.imported import import_memory
from metamorphd.store.operations import add_counts, complete_operation
from metamorphd.store.sessions import CREATE_PAIR, append_session_change
from metamorphd.store.subject_usage import COUNT_SUBJECT_USAGE
from metamorphd.store.usage import COUNT_DAILY_USAGE, COUNT_USAGE
from metamorphd.store.vault_states import get_vault_status
from metamorphd.store.vaults import create_vault

CREATE_IMPORT = """
INSERT INTO imports (vault_id, import_id, state, create_time) VALUES (:vault_id, :import_id, 'staging', :now)
ON CONFLICT (vault_id) DO NOTHING
"""
SET_STATE = """
UPDATE imports SET state = :state WHERE vault_id = :vault_id AND import_id = :import_id AND state = 'staging'
"""
GET_STATE = "SELECT import_id, state FROM imports WHERE vault_id = :vault_id"
END_IMPORT = "DELETE FROM imports WHERE vault_id = :vault_id"
LIST_IMPORTS = "SELECT vault_id, import_id, state FROM imports WHERE vault_id > :after ORDER BY vault_id LIMIT :limit"
LIST_STAGED = """
SELECT number, kind, record FROM staged_records WHERE vault_id = :vault_id ORDER BY number LIMIT :limit
"""
DELETE_STAGED = "DELETE FROM staged_records WHERE vault_id = :vault_id AND number <= :last"
REVEAL_SESSION = """
UPDATE sessions SET delete_time = NULL, last_activity_time = COALESCE(last_message_time, create_time),
    archived = :archived, creator = :creator
WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time = 0
"""
DISCARD_SESSION = """
UPDATE sessions SET delete_time = :now WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time = 0
"""
RELEASE_ATTACHMENT = """
DELETE FROM attachment_uses WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND message_id = ''
"""
# Of a vault whose settings were never changed.
REVEAL_VAULT = """
UPDATE vaults
SET display_name = :display_name, default_model = :default_model, system_prompt = :system_prompt,
    tokens_per_day = :tokens_per_day, tokens_per_month = :tokens_per_month,
    cost_usd_nanos_per_day = :cost_usd_nanos_per_day, cost_usd_nanos_per_month = :cost_usd_nanos_per_month,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND revision = 1
"""
# A turn adds up the usage of a month: that of so few models a day, and so little that it can be added up.
GET_DAY = """
SELECT import_id, input_tokens + output_tokens + cache_read_tokens + cache_write_tokens + cost_usd_nanos + turns AS used
FROM daily_usage WHERE vault_id = :vault_id AND day = :day AND model = :model
"""
COUNT_MODELS = """
SELECT COUNT(*) AS models FROM (
    SELECT model FROM daily_usage WHERE vault_id = :vault_id AND day = :day LIMIT :most_models) AS counted
"""
MARK_DAY = """
UPDATE daily_usage SET import_id = :import_id WHERE vault_id = :vault_id AND day = :day AND model = :model
"""
GET_USED_BY = """
SELECT input_tokens + output_tokens + cache_read_tokens + cache_write_tokens + cost_usd_nanos + turns AS used
FROM subject_usage
WHERE vault_id = :vault_id AND kind = :kind AND subject = :subject AND day = :day AND model = :model
"""
# Where the vault has none of its own, and not more than it could have set.
REVEAL_BUDGET = """
INSERT INTO subject_budgets (vault_id, kind, subject, set_by, tokens_per_day, tokens_per_month, cost_usd_nanos_per_day,
    cost_usd_nanos_per_month)
SELECT :vault_id, :subject_kind, :subject, 'vault', :tokens_per_day, :tokens_per_month, :cost_usd_nanos_per_day,
    :cost_usd_nanos_per_month
WHERE :subject = '' OR :most_subjects > (
    SELECT COUNT(*) FROM subject_budgets
    WHERE vault_id = :vault_id AND kind = :subject_kind AND set_by = 'vault' AND subject > '')
ON CONFLICT (vault_id, kind, subject, set_by) DO NOTHING
"""
MOST_MODELS, MOST_USED, MOST_SUBJECTS = 32, 5 * 10**14, 100
# Few, because others write meanwhile. To index memories of so many bytes takes as long as all others.
STEP_RECORDS, STEP_MEMORY_BYTES = 24, 2_048


@grows
async def begin_import(tx: Transaction, *, import_id: str, hash_key: bytes, now: int) -> bytes | None:
    """Records that an import begins, and returns the key of the vault's words, or None while another one goes on.

    Makes the vault, with `hash_key`, if need be.
    """
    await create_vault(tx, hash_key=hash_key, now=now)
    begun = await tx.run(CREATE_IMPORT, import_id=import_id, now=now)
    vault = await tx.one(GET_HASH_KEY)
    return bytes(vault.hash_key) if begun and vault is not None else None


async def complete_import(tx: Transaction, *, import_id: str, counts: Mapping[str, int], now: int) -> int:
    """Decides that what is staged will be revealed, and returns the vault's revision.

    From here on the operation with the import's ID has what was stored as its result: `counts` so far.
    """
    if not await tx.run(SET_STATE, import_id=import_id, state=ImportState.REVEALING):
        raise RuntimeError("an import that ends was not staged")
    await add_counts(tx, operation_id=import_id, counts=counts)
    return await append_change(
        tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.IMPORTED, now=now
    )


@concludes
async def discard_import(tx: Transaction, *, import_id: str) -> None:
    """Decides that what is staged will be erased, unless the import is complete."""
    await tx.run(SET_STATE, import_id=import_id, state=ImportState.DISCARDING)


async def list_imports(tx: SystemTransaction, *, after: str, limit: int) -> list[tuple[str, str, ImportState]]:
    """Returns (vault ID, import ID, state) of the next imports that have not ended, by vault."""
    rows = await tx.all(LIST_IMPORTS, after=after, limit=limit)
    return [(row.vault_id, row.import_id, ImportState(row.state)) for row in rows]


@concludes
async def end_import_step(tx: Transaction, *, now: int) -> Imported | None:
    """Reveals or erases the next records of the vault's import. Returns None if none were left.

    Of those that were revealed it counts the kinds of which only now is known what the vault has already, also in the
    result of the import's operation. That has succeeded when none are left. What is left of the import of a vault that
    is deleted is erased with the vault.
    """
    found = await tx.one(GET_STATE)
    if found is None or found.state == ImportState.STAGING:
        return None
    if (await get_vault_status(tx)).state is VaultState.DELETED:
        return None
    rows = _of_one_step(await tx.all(LIST_STAGED, limit=STEP_RECORDS))
    imported = Imported()
    for row in rows:
        if found.state == ImportState.REVEALING:
            await _reveal(tx, row, imported, found.import_id, now)
        else:
            await _discard(tx, row, now)
    if not rows:
        await tx.run(END_IMPORT)
        if found.state == ImportState.REVEALING:
            await complete_operation(tx, operation_id=found.import_id, now=now)
        return None
    await add_counts(tx, operation_id=found.import_id, counts=imported.stored)
    await tx.run(DELETE_STAGED, last=rows[-1].number)
    return imported


def _of_one_step(rows: Sequence[Row]) -> Sequence[Row]:
    left = STEP_MEMORY_BYTES
    for place, row in enumerate(rows):
        left -= len(row.record) if row.kind == "memory" else 0
        if left < 0 and place:
            return rows[:place]
    return rows


async def _reveal(tx: Transaction, row: Row, imported: Imported, import_id: str, now: int) -> None:
    record: dict[str, Any] = orjson.loads(row.record)
    match row.kind:
        case "session":
            await _reveal_session(tx, record, now)
        case "attachment":
            await append_attachment_change(tx, attachment_id=record["attachment_id"], verb=ChangeVerb.CREATED, now=now)
            await _release(tx, record, now)
        case kind:
            imported.count(kind, stored=await _store(tx, kind, record, import_id, now))


async def _store(tx: Transaction, kind: str, record: Mapping[str, Any], import_id: str, now: int) -> bool:
    """Stores what was not staged as a row, unless the vault has it. Returns whether it did."""
    match kind:
        case "memory":
            return await import_memory(tx, record=record, now=now)
        case "usage":
            return await _store_usage(tx, record, import_id)
        case "subject_usage":
            return await _store_subject_usage(tx, record, import_id)
        case "vault":
            values = {name: value for name, value in record.items() if name in VAULT_FIELDS}
            changed = await tx.run(REVEAL_VAULT, **values, now=now)
        case _:
            values = {name: record[name] for name in ("subject_kind", "subject", *LIMITS)}
            changed = await tx.run(REVEAL_BUDGET, most_subjects=MOST_SUBJECTS, **values)
    if changed:
        await append_change(
            tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.UPDATED, now=now
        )
    return bool(changed)


LIMITS = ("tokens_per_day", "tokens_per_month", "cost_usd_nanos_per_day", "cost_usd_nanos_per_month")
VAULT_FIELDS = frozenset(("display_name", "default_model", "system_prompt", *LIMITS))
USED = (
    *("day", "model", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos"),
    *("estimated", "turns"),
)


async def _store_usage(tx: Transaction, record: Mapping[str, Any], import_id: str) -> bool:
    """Adds what a session has used on a day, unless the vault has used the model on that day itself.

    All usage of a day and a model is taken, or none: sums by session, by user and by label would differ.
    """
    place = {"day": record["day"], "model": record["model"]}
    known = await tx.one(GET_DAY, **place)
    if known is None:
        row = await tx.one(COUNT_MODELS, day=record["day"], most_models=MOST_MODELS)
        if row is not None and row.models >= MOST_MODELS:
            return False
    elif known.import_id != import_id or known.used >= MOST_USED:
        return False
    await tx.run(COUNT_USAGE, session_id=record["session_id"], imported=True, **_used(record))
    await tx.run(COUNT_DAILY_USAGE, **_used(record))
    if known is None:
        await tx.run(MARK_DAY, import_id=import_id, **place)
    return True


async def _store_subject_usage(tx: Transaction, record: Mapping[str, Any], import_id: str) -> bool:
    """Adds what a user or a label has used on a day, if the sessions' usage of that day and model was taken."""
    place = {"day": record["day"], "model": record["model"]}
    subject = {"kind": record["subject_kind"], "subject": record["subject"]}
    known = await tx.one(GET_DAY, **place)
    if known is None or known.import_id != import_id:
        return False
    row = await tx.one(GET_USED_BY, **subject, **place)
    if row is not None and row.used >= MOST_USED:
        return False
    await tx.run(COUNT_SUBJECT_USAGE, **subject, imported=True, **_used(record))
    return True


def _used(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in USED}


async def _reveal_session(tx: Transaction, record: Mapping[str, Any], now: int) -> None:
    session_id = record["session_id"]
    if not await tx.run(REVEAL_SESSION, session_id=session_id, archived=record["archived"], creator=record["creator"]):
        return
    for key, value in record["metadata"].items():
        await tx.run(CREATE_PAIR, session_id=session_id, key=key, value=value)
    await append_session_change(tx, session_id=session_id, verb=ChangeVerb.CREATED, now=now)


async def _discard(tx: Transaction, row: Row, now: int) -> None:
    record = orjson.loads(row.record)
    if row.kind == "session":
        await tx.run(DISCARD_SESSION, session_id=record["session_id"], now=now)
        await queue_erasure(tx, resource=Resource.SESSION, resource_id=record["session_id"], now=now)
    elif row.kind == "attachment":
        await _release(tx, record, now)


async def _release(tx: Transaction, record: Mapping[str, Any], now: int) -> None:
    """Holds an attachment no more. It is erased unless a message holds it."""
    await tx.run(RELEASE_ATTACHMENT, attachment_id=record["attachment_id"])
    await queue_erasure(tx, resource=Resource.ATTACHMENT, resource_id=record["attachment_id"], now=now)
