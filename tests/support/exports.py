"""Calls about exports."""

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from tests.support.caller import Caller

Record = dict[str, Any]


def export(caller: Caller, **fields: Any) -> Any:
    """Begins an export, or goes on with one."""
    return caller.vault.ExportVault(pb.ExportVaultRequest(**fields), metadata=caller.metadata)


async def exported(caller: Caller, **fields: Any) -> bytes:
    """Returns the bytes of an export."""
    responses = [response async for response in export(caller, **fields)]
    assert responses[0].HasField("export")
    return b"".join(response.data for response in responses[1:])


async def import_(caller: Caller, data: bytes, *, piece: int = 200_000) -> Any:
    """Imports a file, and returns the response."""
    pieces = (data[start : start + piece] for start in range(0, len(data), piece))
    return await caller.vault.ImportVault(
        (pb.ImportVaultRequest(data=each) for each in pieces), metadata=caller.metadata
    )


def comparable(data: bytes) -> list[Record]:
    """Returns the records of an export without those that every export has of its own."""
    return records(data)[1:-1]


def records(data: bytes) -> list[Record]:
    """Returns the records of an export, the header first."""
    return [orjson.loads(line) for line in data.splitlines()]


def of_kind(data: bytes, *kinds: str) -> list[Record]:
    """Returns the records of some kinds."""
    return [record for record in records(data) if record["kind"] in kinds]


def whole(lines: Iterable[Record]) -> bytes:
    """Returns records, without their trailer, as a file that has one."""
    body = [dict(record) for record in lines]
    counts: dict[str, int] = {}
    for record in body[1:]:
        counts[record["kind"]] = counts.get(record["kind"], 0) + 1
    data = b"".join(orjson.dumps(record) + b"\n" for record in body)
    return (
        data + orjson.dumps({"kind": "trailer", "counts": counts, "sha256": hashlib.sha256(data).hexdigest()}) + b"\n"
    )
