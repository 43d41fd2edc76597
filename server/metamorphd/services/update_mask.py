"""Update masks (AIP-134)."""

from collections.abc import Set as AbstractSet
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from metamorphd.errors import UpdateMaskInvalid


def masked(resource: Message, mask: FieldMask, settable: AbstractSet[str]) -> dict[str, Any]:
    """Returns the fields of `resource` that `mask` names. Raises UpdateMaskInvalid if it is empty or names others."""
    if not mask.paths:
        raise UpdateMaskInvalid(path="")
    for path in mask.paths:
        if path not in settable:
            raise UpdateMaskInvalid(path=path)
    return {path: getattr(resource, path) for path in mask.paths}
