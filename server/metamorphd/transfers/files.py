"""Files of exports on the database's volume, a directory for each vault."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Container
from pathlib import Path

from metamorphd.deletion import delete, open_shared
from metamorphd.durable import sync_directory

COMPLETE, PARTIAL = ".ndjson", ".part"
VAULT_DIGITS = 40


class ExportFiles:
    """The files in a directory, which is made when there is one. All methods block, and raise OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Deletes files that a server before this one has not completed."""
        for part in self.directory.glob(f"*/*{PARTIAL}"):
            delete(part)

    def partial(self, vault_id: str, export_id: str) -> Path:
        """Returns the name of an export's file until it is complete."""
        return self._of(vault_id) / f"{export_id}{PARTIAL}"

    def create(self, vault_id: str, export_id: str) -> Path:
        """Returns the file of a new export, empty, in the place of the vault's other ones."""
        self.delete_all(vault_id)
        path = self.partial(vault_id, export_id)
        while True:
            # The directory may be deleted meanwhile, by whoever has deleted what was in it.
            with contextlib.suppress(FileNotFoundError):
                for folder in (self.directory, path.parent):
                    folder.mkdir(mode=0o700, exist_ok=True)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                return path

    def complete(self, path: Path) -> Path:
        """Returns a file that is complete, under the name that says so, and durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        named = path.with_suffix(COMPLETE)
        path.rename(named)
        sync_directory(path.parent)
        return named

    def discard(self, path: Path) -> None:
        """Deletes a file that is not complete, also if it is named so already."""
        for suffix in (PARTIAL, COMPLETE):
            delete(path.with_suffix(suffix))

    def read(self, path: Path, size: int, offset: int) -> bytes:
        """Returns `size` bytes of a file from an offset on, or none if it was deleted.

        It is not open from one call to the next: whoever stops reading would keep the space of what is deleted.
        """
        # It is renamed once it is complete.
        for suffix in (path.suffix, COMPLETE):
            with contextlib.suppress(FileNotFoundError), open_shared(path.with_suffix(suffix)) as file:
                return os.pread(file.fileno(), size, offset)
        return b""

    def find(self, vault_id: str, export_id: str, *, since: float) -> tuple[Path, int] | None:
        """Returns the file of an export of the vault that was completed since a time, and its size, or None."""
        # Its directory may be deleted meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for path in self._of(vault_id).glob(f"*{COMPLETE}"):
                # A text from a caller is compared, and never part of a path.
                if path.stem == export_id and (found := path.stat()).st_mtime >= since:
                    return path, found.st_size
        return None

    def delete_all(self, vault_id: str) -> None:
        """Deletes the files of a vault."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._of(vault_id).iterdir()):
                _delete(path)

    def having(self, vault_ids: Collection[str]) -> list[str]:
        """Returns the vaults among some that have files."""
        with contextlib.suppress(FileNotFoundError):
            if found := set(self.directory.iterdir()):
                return [vault_id for vault_id in vault_ids if self._of(vault_id) in found]
        return []

    def delete_older(self, before: float, *, kept: Container[str]) -> None:
        """Deletes files that were completed before a time, in seconds since the epoch, but those of `kept` exports."""
        # Those of a vault may be deleted meanwhile; the others are looked for again.
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.glob(f"*/*{COMPLETE}"):
                if path.stem not in kept and path.stat().st_mtime < before:
                    _delete(path)

    def _of(self, vault_id: str) -> Path:
        # Vault IDs differ in letter case, which file systems may not tell apart.
        return self.directory / hashlib.sha256(vault_id.encode()).hexdigest()[:VAULT_DIGITS]


def _delete(path: Path) -> None:
    """Deletes a file as far as possible, and its directory with the last one."""
    with contextlib.suppress(OSError):
        delete(path)
        path.parent.rmdir()
