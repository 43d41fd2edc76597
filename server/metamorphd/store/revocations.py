"""Tokens that count no more."""

from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.page import Page
from metamorphd.models.revocation import Revocation
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction
from metamorphd.store.paging import page_of

COLUMNS = "revocation_id, vault_id, token_id, user_id, issued_before, note, creator, create_time"

REVOKE_TOKEN = (
    """
INSERT INTO revocations (vault_id, revocation_id, token_id, note, creator, create_time)
VALUES (:vault_id, :revocation_id, :token_id, :note, :creator, :now)
ON CONFLICT (vault_id, token_id) WHERE token_id IS NOT NULL DO UPDATE SET note = excluded.note
RETURNING """
    + COLUMNS
)
REVOKE_USER = (
    """
INSERT INTO revocations (vault_id, revocation_id, user_id, issued_before, note, creator, create_time)
VALUES (:vault_id, :revocation_id, :user_id, :issued_before, :note, :creator, :now)
ON CONFLICT (vault_id, user_id) WHERE user_id IS NOT NULL DO UPDATE SET
    note = excluded.note,
    issued_before = CASE WHEN excluded.issued_before > issued_before THEN excluded.issued_before ELSE issued_before END
RETURNING """
    + COLUMNS
)


def _page_of_revocations(where: str) -> str:
    """Returns a statement for a page, which ends before its first revocation beyond :max_size bytes.

    `candidate_count` counts what would follow.
    """
    return f"""
WITH candidates AS (
    SELECT *, octet_length(note) + octet_length(creator) + octet_length(COALESCE(token_id, user_id)) + 512 AS size
    FROM revocations
    WHERE {where} AND revocation_id < :after_id
    ORDER BY revocation_id DESC
    LIMIT :page_size + 1
), page AS (
    SELECT *, SUM(size) OVER (ORDER BY revocation_id DESC) - size AS before, COUNT(*) OVER () AS candidate_count
    FROM candidates
)
SELECT {COLUMNS}, candidate_count
FROM page
WHERE before < :max_size
ORDER BY revocation_id DESC
"""


LIST_REVOCATIONS = _page_of_revocations("TRUE")
LIST_REVOCATIONS_OF_VAULT = _page_of_revocations("vault_id = :target_vault_id")
# Above every ID, so that the first page begins with the newest.
LAST_ID = "~"
LOAD_REVOCATIONS = "SELECT " + COLUMNS + " FROM revocations"


def _revocation(row: Row) -> Revocation:
    return Revocation(
        revocation_id=row.revocation_id,
        vault_id=row.vault_id,
        token_id=row.token_id,
        user_id=row.user_id,
        issued_before=row.issued_before,
        note=row.note,
        creator=row.creator,
        create_time=row.create_time,
    )


async def revoke_token(tx: Transaction, *, revocation_id: str, token_id: str, note: str, now: int) -> Revocation:
    """Revokes the token with this `jti`. Revoked before, it stays so; the note is replaced."""
    row = await tx.one(
        REVOKE_TOKEN, revocation_id=revocation_id, token_id=token_id, note=note, creator=tx.scope.actor.user_id, now=now
    )
    return await _made(tx, row, now, token_id=token_id)


async def revoke_user(
    tx: Transaction, *, revocation_id: str, user_id: str, issued_before: int, note: str, now: int
) -> Revocation:
    """Revokes a user's tokens that were issued before. A later time that was set before stays; the note is replaced."""
    row = await tx.one(
        REVOKE_USER,
        revocation_id=revocation_id,
        user_id=user_id,
        issued_before=issued_before,
        note=note,
        creator=tx.scope.actor.user_id,
        now=now,
    )
    return await _made(tx, row, now, user_id=user_id)


async def _made(tx: Transaction, row: Row | None, now: int, **details: str) -> Revocation:
    if row is None:
        raise RuntimeError("a revocation that was just made is missing")
    made = _revocation(row)
    await append_change(
        tx,
        resource=ChangedResource.REVOCATION,
        resource_id=made.revocation_id,
        verb=ChangeVerb.CREATED,
        details=details,
        now=now,
    )
    return made


async def list_revocations(
    tx: SystemTransaction,
    *,
    target_vault_id: str | None,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
) -> Page[Revocation]:
    """Newest first, of one vault or all; `after` is (revocation id). Pages are cut as those of `list_sessions`."""
    page = {"after_id": after[0] if after else LAST_ID, "page_size": page_size, "max_size": max_size}
    if target_vault_id is None:
        rows = await tx.all(LIST_REVOCATIONS, **page)
    else:
        rows = await tx.all(LIST_REVOCATIONS_OF_VAULT, target_vault_id=target_vault_id, **page)
    return page_of(rows, page_size, item=_revocation, after=lambda row: (row.revocation_id,))


async def load_revocations(tx: SystemTransaction) -> list[Revocation]:
    """All of them, of every vault."""
    return [_revocation(row) for row in await tx.all(LOAD_REVOCATIONS)]
