"""Where a restore reads from: a file, plain or packed as copies are, or a copy in a bucket. Methods block."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from metamorphd.backups.directory import MANIFEST, read_manifest
from metamorphd.errors import StartupRefused
from metamorphd.models.backup import Manifest
from metamorphd.models.erased_vault import ErasedVault

READ_BYTES = 4 * 2**20

# Takes bytes, in order.
Write = Callable[[bytes], object]
# Is called with the number of bytes that were read since the last call. May raise, which ends the work.
Step = Callable[[int], None]


class Source(Protocol):
    """A backup that can be restored.

    `name` is shown, `size` is what is read, and `needed` what is written, as far as that is known before. `manifest` is
    None if it has none; `trusted` says whether it was written here, and not where others may write.
    """

    name: str
    size: int
    needed: int
    manifest: Manifest | None
    trusted: bool

    def read_into(self, write: Write, *, step: Step) -> None:
        """Writes the database. Raises StartupRefused if it cannot be read, and what writing raises."""

    def ledger(self) -> Iterable[list[ErasedVault]]:
        """Yields the entries of the erasure ledger that is kept with it, a part at a time. Raises StartupRefused."""


class PlainFile:
    """A backup's file, as the server makes them."""

    trusted = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self.size = self.needed = path.stat().st_size
        self.manifest = read_manifest(Path(f"{path}{MANIFEST}"))

    def read_into(self, write: Write, *, step: Step) -> None:
        log = Path(f"{self._path}-wal")
        if log.exists() and log.stat().st_size:
            raise StartupRefused(
                f"{self.name} is no backup: it has a write-ahead log beside it, and is not complete without that; "
                "to use it as the database, rename both"
            )
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                write(chunk)
                step(len(chunk))

    def ledger(self) -> Iterable[list[ErasedVault]]:
        # Beside the database, and in the directory of backups.
        return ()
