"""What a request says beside its fields: a request_id (AIP-155), an update mask (AIP-134)."""

import uuid
from collections.abc import Set as AbstractSet
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from metamorphd.errors import UpdateMaskInvalid
from metamorphd.store.requests import RequestKey


def request_key(rpc: str, request: Any) -> RequestKey | None:
    """A request's key, None where it carries no request_id."""
    if not request.request_id:
        return None
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    # A UUID has many spellings; one of them names the request.
    request_id = str(uuid.UUID(request.request_id))
    return RequestKey(rpc, request_id, body.SerializeToString(deterministic=True))


def changes(resource: Message, mask: FieldMask, settable: AbstractSet[str]) -> dict[str, Any]:
    """The fields of `resource` that `mask` names. Raises UpdateMaskInvalid for an empty mask or another field."""
    if not mask.paths:
        raise UpdateMaskInvalid(path="")
    for path in mask.paths:
        if path not in settable:
            raise UpdateMaskInvalid(path=path)
    return {path: getattr(resource, path) for path in mask.paths}
