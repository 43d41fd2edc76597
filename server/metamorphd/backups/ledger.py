"""The erasure ledger: the vaults that were deleted, in files that a restore does not replace.

A file has a line of JSON for each vault, and is only appended to. Of a line that a crash has cut, nothing is known; the
database has its entry too, and enters it again.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from metamorphd.durable import sync_directory
from metamorphd.models.erased_vault import ErasedVault, LedgerPosition

NAME = "erased-vaults.jsonl"
# What is read at a time.
STEP_BYTES = 2**18
# What is compared of a file to know that it is the same as before. No two entries are alike.
TAIL_BYTES = 4096

BEGINNING = LedgerPosition()

_ENTRY = TypeAdapter(ErasedVault)


def parse_entries(content: bytes) -> list[ErasedVault]:
    """Returns the entries of a ledger's bytes, without lines that make no sense."""
    entries = []
    for line in content.splitlines():
        try:
            entries.append(_ENTRY.validate_json(line))
        except ValidationError:
            continue
    return entries


def format_entries(entries: Iterable[ErasedVault]) -> bytes:
    """Returns entries as the bytes of a ledger."""
    return b"".join(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE) for entry in entries)


class LedgerFile:
    """A file of the ledger, which need not be there. Methods block, and raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, after: LedgerPosition) -> tuple[list[ErasedVault], LedgerPosition]:
        """Returns the next entries, and where they end: where they begin at the end of the file.

        They are of STEP_BYTES, among which there may be none.
        """
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return [], after
        try:
            content = os.pread(file, STEP_BYTES, after.offset)
            if not content:
                return [], after
            if len(content) == STEP_BYTES:
                # Whole lines. If there is none, it is of no entry.
                content = content[: content.rfind(b"\n") + 1] or content
            return parse_entries(content), _position(file, after.offset + len(content))
        finally:
            os.close(file)

    def parts(self, after: LedgerPosition = BEGINNING) -> Iterator[tuple[list[ErasedVault], LedgerPosition]]:
        """Yields what `read` returns, to the end of the file."""
        entries, end = self.read(after)
        while end != after:
            yield entries, end
            entries, end, after = *self.read(end), end

    def holds(self, position: LedgerPosition) -> bool:
        """Returns whether a position is one of this file: what was before it still is."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return position == BEGINNING
        try:
            return os.fstat(file).st_size >= position.offset and _position(file, position.offset) == position
        finally:
            os.close(file)

    def end(self) -> LedgerPosition:
        """Returns the position of the end."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return BEGINNING
        try:
            return _position(file, os.fstat(file).st_size)
        finally:
            os.close(file)

    def add(self, entries: Iterable[ErasedVault]) -> tuple[LedgerPosition, LedgerPosition]:
        """Appends entries, and returns where they begin and end. They are durable then."""
        there = self.path.exists()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            begin = _position(file, size)
            # Apart from a line that was cut, or is being cut by a write that fails.
            lines = memoryview((b"\n" if size else b"") + format_entries(entries))
            while lines:
                lines = lines[os.write(file, lines) :]
            os.fsync(file)
            end = _position(file, os.fstat(file).st_size)
        finally:
            os.close(file)
        if not there:
            sync_directory(self.path.parent)
        return begin, end

    def delete(self) -> None:
        """Deletes the file, if it is there."""
        if self.path.exists():
            self.path.unlink()
            sync_directory(self.path.parent)


class Ledger:
    """The files of a database's ledger: one beside it, one with its backups.

    `brought` has what a restore has brought from elsewhere, until a server has read it.
    """

    def __init__(self, *, database: Path, backups: Path) -> None:
        # The directory is that of the file, even if the path is a link.
        real = Path(os.path.realpath(database))
        self.files: Mapping[str, LedgerFile] = {
            "database": LedgerFile(real.with_name(f"{real.name}.{NAME}")),
            "backups": LedgerFile(backups / NAME),
        }
        self.brought = LedgerFile(real.with_name(f"{real.name}.brought-{NAME}"))

    def bring(self, parts: Iterable[list[ErasedVault]]) -> bool:
        """Has the next server of the database read what is kept with a backup. Returns whether there is anything.

        So is what the directory of backups has, if it is more than what the file beside the database has: the server
        may have another one. Blocks, and raises OSError.
        """
        for entries in filter(None, parts):
            self.brought.add(entries)
        if self.files["backups"].end().tail != self.files["database"].end().tail:
            for entries, _ in self.files["backups"].parts():
                self.brought.add(entries)
        return any(file.end() != BEGINNING for file in (self.brought, *self.files.values()))


def _position(file: int, offset: int) -> LedgerPosition:
    """Returns a position in an open file."""
    size = min(offset, TAIL_BYTES)
    tail = os.pread(file, size, offset - size)
    return LedgerPosition(offset, hashlib.sha256(tail).hexdigest()[:32]) if offset else BEGINNING
