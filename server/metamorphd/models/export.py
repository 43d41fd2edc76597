"""Exports of a vault."""

from dataclasses import dataclass, field

# Of the format that docs/export-and-import.md specifies.
FORMAT, FORMAT_VERSION = "metamorph-vault", 1


@dataclass(frozen=True, slots=True)
class Export:
    """A file with what a vault stores. `size` is that of the complete file in bytes, 0 while it is being written.

    `expected_size` is about what it will be. `operation_id` is empty if an earlier server has written it.
    """

    export_id: str
    create_time: int
    size: int
    expected_size: int
    operation_id: str


@dataclass(frozen=True, slots=True)
class ExportStart:
    """The vault when its export began: its revision, and the bytes that it stored."""

    revision: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far the records of a vault are read. `kind` counts the kinds of the table, in its order.

    `after` is the key of the last record of that kind. If `within` is set, the records that belong to that one are
    being read: `child` counts their kinds, and `child_after` is the key of the last of those. `elder` is the key of the
    last one of the kind before, as far as it was read. The record is whole with `parts` of them, if that is not 0, of
    which `missing` are not read yet.
    """

    kind: int = 0
    after: tuple[str | int, ...] = ()
    within: bool = False
    child: int = 0
    child_after: tuple[str | int, ...] = ()
    elder: tuple[str | int, ...] = ()
    parts: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Records:
    """Lines with records, how many there are of each kind, and where the next ones begin, None at the end.

    `begun` are lines of a record that is not whole yet, nor counted. If `broken` is set, the one that was begun before
    is left out, because it has been deleted meanwhile: these records are in the place of its lines.
    """

    lines: bytes
    counts: dict[str, int] = field(default_factory=dict)
    next: Position | None = None
    begun: bytes = b""
    broken: bool = False
