"""Reading what a vault stores, as lines of an export."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.export import ExportStart, Position, Records
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, Transaction
from metamorphd.store.export_kinds import KINDS, Key, Kind, Page
from metamorphd.store.storage import get_storage
from metamorphd.store.vaults import create_vault


async def begin_export(tx: Transaction, *, hash_key: bytes, now: int) -> ExportStart:
    """Records in the vault's log that it is exported. Makes the vault if need be."""
    await create_vault(tx, hash_key=hash_key, now=now)
    revision = await append_change(
        tx, resource=ChangedResource.VAULT, resource_id=tx.scope.vault_id, verb=ChangeVerb.EXPORTED, now=now
    )
    status = await get_storage(tx, default_limit=0)
    return ExportStart(revision, status.stored_bytes)


async def read_records(tx: Transaction, *, position: Position, most_bytes: int, now: int) -> Records:
    """Returns the records from a position on, about `most_bytes` of them, all as they are in one snapshot."""
    reading = _Reading(tx, most_bytes=most_bytes, now=now)
    following: Position | None = position
    while following is not None and reading.left > 0:
        following = await reading.step(following)
    return Records(b"".join(reading.lines), reading.counts, following)


class _Reading:
    """Reads records until there are enough."""

    def __init__(self, tx: Transaction, *, most_bytes: int, now: int) -> None:
        self._tx = tx
        self._now = now
        self.left = most_bytes
        self.lines: list[bytes] = []
        self.counts: dict[str, int] = {}

    async def step(self, position: Position) -> Position | None:
        """Reads a page of a kind, with what belongs to its records, and returns where to go on."""
        kind = KINDS[position.kind]
        if position.within:
            return await self._children(kind, position)
        rows = await self._page(kind, after=position.after)
        if not rows:
            return Position(position.kind + 1) if position.kind + 1 < len(KINDS) else None
        for row in rows:
            self._add(kind, row)
            position = Position(position.kind, _key(kind, row), within=bool(kind.children))
            while position.within and self.left > 0:
                position = await self._children(kind, position)
            if self.left <= 0:
                break
        return position

    async def _children(self, kind: Kind, position: Position) -> Position:
        child = kind.children[position.child]
        rows = await self._page(child, parent=position.after, after=position.child_after, elder=position.elder)
        for row in rows:
            self._add(child, row)
        if rows:
            return replace(position, child_after=_key(child, rows[-1]))
        if position.child + 1 < len(kind.children):
            return replace(position, child=position.child + 1, child_after=(), elder=position.child_after)
        return Position(position.kind, position.after)

    async def _page(self, kind: Kind, *, after: Key, parent: Key = (), elder: Key = ()) -> Sequence[Row]:
        return await kind.read(self._tx, Page(parent, after, max(self.left, 1), self._now, elder))

    def _add(self, kind: Kind, row: Row) -> None:
        line = encode_record(kind, row)
        self.lines.append(line)
        self.left -= len(line)
        self.counts[kind.name] = self.counts.get(kind.name, 0) + 1


def _key(kind: Kind, row: Row) -> Key:
    # The vault has one record, and no key.
    return tuple(getattr(row, column) for column in kind.key) or ("",)


def encode_record(kind: Kind, row: Row) -> bytes:
    """Returns a row as a line of an export."""
    record: dict[str, Any] = {"kind": kind.name}
    record.update(zip(kind.columns, kind.values(row), strict=False))
    for column in kind.json:
        if record[column] is not None:
            # As it is stored: reading it would take most of the time.
            record[column] = orjson.Fragment(record[column])
    for column in kind.flags:
        if record[column] is not None:
            record[column] = record[column] == 1
    for column in kind.encoded:
        record[column] = b64encode(record[column]).decode()
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
