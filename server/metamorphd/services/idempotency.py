"""Idempotency keys from request ids (AIP-155)."""

import hashlib
import uuid
from typing import Any

from metamorphd.store.idempotency import IdempotencyKey

# In bytes. Of larger ones only a hash is kept.
LARGEST_BODY = 64 * 1024


def idempotency_key(rpc: str, request: Any) -> IdempotencyKey | None:
    """Returns the idempotency key of a request, or None if it has no request_id."""
    if not request.request_id:
        return None
    # Not from a copy, which may be of megabytes.
    spelled = request.request_id
    request.ClearField("request_id")
    body = request.SerializeToString(deterministic=True)
    request.request_id = spelled
    if len(body) > LARGEST_BODY:
        # It is kept until the writer hashes it with the vault's key.
        body = hashlib.sha256(body).digest()
    # Normalized, since a UUID can be spelled in several ways.
    return IdempotencyKey(rpc, str(uuid.UUID(spelled)), body)
