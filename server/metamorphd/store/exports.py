"""Reading what a vault stores, as lines of an export."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
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
    reading = _Reading(tx, most_bytes=most_bytes, now=now, begun=position.missing > 0)
    following: Position | None = position
    while following is not None and reading.left > 0:
        following = await reading.step(following)
    return reading.records(following)


class _Reading:
    """Reads records until there are enough. `begun` is whether a record before them is not whole yet."""

    def __init__(self, tx: Transaction, *, most_bytes: int, now: int, begun: bool) -> None:
        self._tx = tx
        self._now = now
        self._begun, self._broken = begun, False
        # How many of the lines are of whole records.
        self._whole = 0
        self._lines: list[bytes] = []
        self._counts: dict[str, int] = {}
        self.left = most_bytes

    def records(self, following: Position | None) -> Records:
        """Returns what was read."""
        whole, begun = b"".join(self._lines[: self._whole]), b"".join(self._lines[self._whole :])
        return Records(whole, self._counts, following, begun, self._broken)

    async def step(self, position: Position) -> Position | None:
        """Reads a page of a kind, with what belongs to its records, and returns where to go on."""
        kind = KINDS[position.kind]
        if position.within:
            return await self._children(kind, position)
        rows = await self._page(kind, after=position.after)
        if not rows:
            return Position(position.kind + 1) if position.kind + 1 < len(KINDS) else None
        for row in rows:
            parts = 0 if kind.parts is None else kind.parts(row)
            self._add(kind, row)
            if not parts:
                self._keep({kind.name: 1})
            position = Position(position.kind, _key(kind, row), within=bool(kind.children), parts=parts, missing=parts)
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
            missing = max(position.missing - len(rows), 0)
            if not position.parts:
                self._keep({child.name: len(rows)})
            elif not missing:
                self._keep({kind.name: 1, child.name: position.parts})
            return replace(position, child_after=_key(child, rows[-1]), missing=missing)
        if position.missing:
            self._leave_out()
        if position.child + 1 < len(kind.children):
            return replace(position, child=position.child + 1, child_after=(), elder=position.child_after)
        return Position(position.kind, position.after)

    async def _page(self, kind: Kind, *, after: Key, parent: Key = (), elder: Key = ()) -> Sequence[Row]:
        return await kind.read(self._tx, Page(parent, after, max(self.left, 1), self._now, elder))

    def _add(self, kind: Kind, row: Row) -> None:
        line = encode_record(kind, row)
        self._lines.append(line)
        self.left -= len(line)

    def _keep(self, counts: Mapping[str, int]) -> None:
        """Records that the records so far are whole."""
        self._whole, self._begun = len(self._lines), False
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + count

    def _leave_out(self) -> None:
        """Takes back the record that was begun: it is being erased."""
        del self._lines[self._whole :]
        self._broken, self._begun = self._broken or self._begun, False


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
