"""Packed copies that a restore reads from: in a bucket, and in a file that was taken from there. Methods block."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from metamorphd.backups.bucket import BucketFailed, Reading
from metamorphd.backups.directory import MANIFEST
from metamorphd.backups.ledger import LedgerFile
from metamorphd.backups.ledger_copy import OBJECT as LEDGER
from metamorphd.backups.packing import Keys, Unreadable, unpack
from metamorphd.backups.remote import Hashed, Remote, backup_of, limited, parse_copy
from metamorphd.backups.sources import Step, Write
from metamorphd.errors import BackupNotFound, StartupRefused
from metamorphd.models.erased_vault import ErasedVault


class PackedFile:
    """A copy that was taken from a bucket, by its name there. Its manifest may lie beside it, and the ledger."""

    trusted = False

    def __init__(self, path: Path, *, keys: Keys) -> None:
        self._path = path
        self._keys = keys
        self.name = str(path)
        self.size = path.stat().st_size
        stated = Path(f"{path}{MANIFEST}")
        copy = parse_copy(stated.read_bytes()) if stated.is_file() else None
        self.manifest = None if copy is None else copy.manifest
        self.needed = self.size if self.manifest is None else self.manifest.size

    def read_into(self, write: Write, *, step: Step) -> None:
        bounded = write if self.manifest is None else limited(write, self.needed)
        with closing(self._path.open("rb", buffering=0)) as file:
            try:
                unpack(self._path.name, Hashed(file, step), bounded, keys=self._keys)
            except Unreadable as exc:
                raise StartupRefused(f"{self.name} cannot be restored: {exc}") from exc

    def ledger(self) -> Iterator[list[ErasedVault]]:
        for file in self._path.parent.iterdir():
            if LEDGER.fullmatch(file.name):
                yield from (entries for entries, _ in LedgerFile(file).parts())


class RemoteCopy:
    """A copy in a bucket: one of a name, or the newest good one. Raises StartupRefused if there is none."""

    trusted = False

    def __init__(self, remote: Remote, name: str, *, keys: Keys) -> None:
        self._remote = remote
        self._keys = keys
        try:
            self._object, copy = remote.get_copy(name or _newest(remote))
        except BackupNotFound:
            raise StartupRefused(
                f"there is no {remote.url(name)}; `metamorph backup list --remote` lists the copies"
            ) from None
        except BucketFailed as exc:
            raise StartupRefused(f"{remote.url(name)} cannot be read: {exc}") from exc
        self.name = remote.url(self._object.name)
        self.size = self._object.size
        self.manifest = None if copy is None else copy.manifest
        self.needed = self.size if self.manifest is None else self.manifest.size

    def read_into(self, write: Write, *, step: Step) -> None:
        bounded = write if self.manifest is None else limited(write, self.needed)
        try:
            reading: Reading = self._remote.read_copy(self._object)
            unpack(self._object.name, Hashed(reading, step), bounded, keys=self._keys)
        except (BucketFailed, Unreadable) as exc:
            raise StartupRefused(f"{self.name} cannot be restored: {exc}") from exc

    def ledger(self) -> Iterator[list[ErasedVault]]:
        try:
            yield from self._remote.ledger.parts()
        except BucketFailed as exc:
            raise StartupRefused(f"the erasure ledger in {self._remote.url('')} cannot be read: {exc}") from exc


def split_url(url: str) -> tuple[str, str]:
    """Returns the address of a bucket's directory and the name of a copy or a backup in it, which may be missing."""
    directory, _, last = url.rstrip("/").rpartition("/")
    return (directory, last) if backup_of(last) else (url, "")


def _newest(remote: Remote) -> str:
    for copy in remote.list_copies():
        if not copy.faults:
            return copy.name
    raise StartupRefused(f"there is no complete, good copy in {remote.url('')}")
