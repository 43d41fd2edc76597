"""The erasure ledger: the vaults that were deleted, in files that a restore does not replace.

A file has a line of JSON for each vault, and is only appended to. Of a line that a crash has cut, nothing is known; the
database has its entry too.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from metamorphd.durable import sync_directory
from metamorphd.models.erased_vault import ErasedVault

NAME = "erased-vaults.jsonl"

_ENTRY = TypeAdapter(ErasedVault)


def beside(database: Path) -> Path:
    """Returns the file of a database's ledger, whose directory is that of the file, even if the path is a link."""
    real = Path(os.path.realpath(database))
    return real.with_name(f"{real.name}.{NAME}")


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


class Ledger:
    """The same entries in files: one beside the database, one with its backups. Methods block, and raise OSError."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def read(self) -> list[ErasedVault]:
        """Returns the entries that are in any of the files, each once, the first to be deleted first."""
        found = {entry for path in self._paths for entry in _read(path)}
        return sorted(found, key=lambda entry: (entry.delete_time, entry.vault_id, entry.life))

    def add(self, entries: Iterable[ErasedVault]) -> None:
        """Adds to each file the entries that it lacks. They are durable then."""
        wanted = list(entries)
        for path in self._paths:
            known = set(_read(path))
            missing = [entry for entry in dict.fromkeys(wanted) if entry not in known]
            if missing:
                _append(path, format_entries(missing))


def _read(path: Path) -> list[ErasedVault]:
    try:
        return parse_entries(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _append(path: Path, lines: bytes) -> None:
    there = path.exists()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b", buffering=0
    ) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            # A line that was cut stays one of its own.
            lines = b"\n" + lines
        os.write(file.fileno(), lines)
        os.fsync(file.fileno())
    if not there:
        sync_directory(path.parent)
