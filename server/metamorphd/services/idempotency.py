"""Idempotency keys from request ids (AIP-155)."""

import uuid
from typing import Any

from metamorphd.store.idempotency import IdempotencyKey


def idempotency_key(rpc: str, request: Any) -> IdempotencyKey | None:
    """Returns the idempotency key of a request, or None if it has no request_id."""
    if not request.request_id:
        return None
    # Not from a copy, which may be of megabytes.
    spelled = request.request_id
    request.ClearField("request_id")
    body = request.SerializeToString(deterministic=True)
    request.request_id = spelled
    # Normalized, since a UUID can be spelled in several ways.
    return IdempotencyKey(rpc, str(uuid.UUID(spelled)), body)
