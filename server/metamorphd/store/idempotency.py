"""Records the resource that a request_id has created, so that repeating a request is safe (AIP-155)."""

import hashlib
from dataclasses import dataclass

from metamorphd.errors import RequestIdReused
from metamorphd.store.database import SqlValue, SystemTransaction, Transaction

GET_HASH_KEY = "SELECT hash_key FROM vaults WHERE vault_id = :vault_id"
CREATE_REQUEST = """
INSERT INTO requests (vault_id, rpc, request_id, body_hash, resource_id, create_time)
VALUES (:vault_id, :rpc, :request_id, :body_hash, :resource_id, :now)
ON CONFLICT (vault_id, rpc, request_id) DO NOTHING
"""
GET_REQUEST = """
SELECT body_hash, resource_id FROM requests
WHERE vault_id = :vault_id AND rpc = :rpc AND request_id = :request_id
"""
# A turn can be replayed for as long as it is there.
PRUNE_REQUESTS = """
DELETE FROM requests
WHERE (vault_id, rpc, request_id) IN (
    SELECT vault_id, rpc, request_id FROM requests
    WHERE (vault_id, rpc, request_id) > (:after_vault_id, :after_rpc, :after_request_id)
    ORDER BY vault_id, rpc, request_id
    LIMIT :limit
)
    AND create_time < :before
    AND NOT EXISTS (
        SELECT 1 FROM turns WHERE turns.vault_id = requests.vault_id AND turns.turn_id = requests.resource_id
    )
"""
END_OF_PAGE = """
SELECT vault_id, rpc, request_id FROM requests
WHERE (vault_id, rpc, request_id) > (:after_vault_id, :after_rpc, :after_request_id)
ORDER BY vault_id, rpc, request_id
LIMIT 1 OFFSET :limit - 1
"""
BEGINNING = ("", "", "")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Identifies a repeatable request. `body` is the request without its id, serialised deterministically, or
    a hash of that.
    """

    rpc: str
    request_id: str
    body: bytes


async def claim_request(tx: Transaction, *, request: IdempotencyKey, resource_id: str, now: int) -> str:
    """Records that `request` makes `resource_id`; answers what it made already, if it did.

    Raises RequestIdReused when the id was used with another body. A vault that is not there yet has made nothing, and
    records nothing: what needs it fails, or makes it first.
    """
    vault = await tx.one(GET_HASH_KEY)
    if vault is None:
        return resource_id
    # Keyed, so that whoever sees the table cannot test guesses about what was sent.
    body_hash = hashlib.blake2b(request.body, key=vault.hash_key, digest_size=32).digest()
    created = await tx.run(
        CREATE_REQUEST,
        rpc=request.rpc,
        request_id=request.request_id,
        body_hash=body_hash,
        resource_id=resource_id,
        now=now,
    )
    if created:
        return resource_id
    known = await tx.one(GET_REQUEST, rpc=request.rpc, request_id=request.request_id)
    if known is None or known.body_hash != body_hash:
        raise RequestIdReused(request_id=request.request_id)
    earlier: str = known.resource_id
    return earlier


async def prune_requests(
    tx: SystemTransaction, *, after: tuple[str, str, str], before: int, limit: int
) -> tuple[str, str, str] | None:
    """Deletes requests older than `before` among the next `limit`, but not those of turns that are still there.

    Requests are visited in the order of their keys, which needs no index by time. Returns the last key visited, from
    which the next call continues, or None at the end. Begins at `BEGINNING`.
    """
    vault_id, rpc, request_id = after
    page: dict[str, SqlValue] = {
        "after_vault_id": vault_id,
        "after_rpc": rpc,
        "after_request_id": request_id,
        "limit": limit,
    }
    end = await tx.one(END_OF_PAGE, **page)
    await tx.run(PRUNE_REQUESTS, before=before, **page)
    return None if end is None else (end.vault_id, end.rpc, end.request_id)
