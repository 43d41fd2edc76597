"""Files of exports on the database's volume, a directory for each vault."""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

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
            part.unlink(missing_ok=True)

    def create(self, vault_id: str, export_id: str) -> Path:
        """Returns the file of a new export, empty, in the place of the vault's other ones."""
        self.delete_all(vault_id)
        folder = self._of(vault_id)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        path = folder / f"{export_id}{PARTIAL}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def complete(self, path: Path) -> Path:
        """Returns a file that is complete, under the name that says so, and durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        named = self.completed(path)
        path.rename(named)
        sync_directory(path.parent)
        return named

    def completed(self, path: Path) -> Path:
        """Returns the name that a file has once it is complete."""
        return path.with_suffix(COMPLETE)

    def find(self, vault_id: str, export_id: str) -> tuple[Path, int] | None:
        """Returns the complete file of an export of the vault, and its size in bytes, or None."""
        # Its directory may be deleted meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for path in self._of(vault_id).glob(f"*{COMPLETE}"):
                # A text from a caller is compared, and never part of a path.
                if path.stem == export_id:
                    return path, path.stat().st_size
        return None

    def delete_all(self, vault_id: str) -> None:
        """Deletes the files of a vault. Whoever reads one can go on."""
        shutil.rmtree(self._of(vault_id), ignore_errors=True)

    def delete_older(self, before: float) -> None:
        """Deletes complete files that were completed before a time, in seconds since the epoch."""
        # Those of a vault may be deleted meanwhile; the others are looked for again.
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.glob(f"*/*{COMPLETE}"):
                if path.stat().st_mtime < before:
                    shutil.rmtree(path.parent, ignore_errors=True)

    def _of(self, vault_id: str) -> Path:
        # Vault IDs differ in letter case, which file systems may not tell apart.
        return self.directory / hashlib.sha256(vault_id.encode()).hexdigest()[:VAULT_DIGITS]
