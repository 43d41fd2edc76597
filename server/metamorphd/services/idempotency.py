"""Idempotency keys from request ids (AIP-155)."""

import uuid
from typing import Any

from metamorphd.store.idempotency import IdempotencyKey


def idempotency_key(rpc: str, request: Any) -> IdempotencyKey | None:
    """Returns the idempotency key of a request, or None if it has no request_id."""
    if not request.request_id:
        return None
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    # Normalized, since a UUID can be spelled in several ways.
    request_id = str(uuid.UUID(request.request_id))
    return IdempotencyKey(rpc, request_id, body.SerializeToString(deterministic=True))
