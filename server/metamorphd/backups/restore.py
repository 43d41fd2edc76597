"""Puts a backup in the place of a database that no server has open."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metamorphd.backups.sources import Source
from metamorphd.errors import StartupRefused
from metamorphd.models.backup import Manifest
from metamorphd.store import migrations
from metamorphd.store.database import Progress
from metamorphd.store.sqlite.inspection import count_rows, inspect
from metamorphd.store.sqlite.lock import Lock
from metamorphd.store.sqlite.replacement import abandon_copy, copy_beside, finish_replacement, replace_database

# So much is made durable while the next part is read and written: the last sync is short, and the disk never idle.
SYNC_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Restorable:
    """A backup that was copied beside the database, and is whole.

    `manifest` is None if it has none. `rows` are those of the backup by table, and `lost` how many of the database
    are not in it, by table: None if the database cannot be read.
    """

    manifest: Manifest | None
    rows: Mapping[str, int]
    lost: Mapping[str, int] | None


class Restore:
    """The restore of a backup to a database file. Blocks."""

    def __init__(self, source: Source, target: Path) -> None:
        self._source = source
        self._target = Path(os.path.realpath(target))
        self._copy = copy_beside(self._target)

    @contextmanager
    def prepared(self, *, progress: Progress) -> Iterator[Restorable]:
        """Locks the database, copies the backup beside it, and verifies the copy. Yields what `apply` would do.

        Raises StartupRefused if a server has the database open, the backup is damaged or made by a newer server,
        there is no room for it, or files cannot be read or written, also within the block.
        """
        with self._locked():
            try:
                finish_replacement(self._target)
                yield self._prepare(progress)
            except OSError as exc:
                raise StartupRefused(f"{self._source.name} cannot be restored to {self._target} ({exc})") from exc
            finally:
                # Interrupted after it has begun, the next start completes it, for which the copy is needed.
                abandon_copy(self._target)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock, there = Lock(self._target), self._target.exists()
        try:
            try:
                lock.acquire()
            except OSError as exc:
                raise StartupRefused(f"{self._target} cannot be opened ({exc})") from exc
            try:
                yield
            finally:
                if not there and self._target.stat().st_size == 0:
                    # The lock has made it, and whoever finds it would take it for a database that lost all.
                    self._target.unlink()
        finally:
            lock.release()

    def apply(self, *, aside: Path) -> Path | None:
        """Puts the copy in the database's place. Returns where the old one is, or None if there was none.

        `aside` is its name; it stays in the directory of the file, even if the database is a link to one elsewhere.
        To be called within `prepared`.
        """
        there, aside = self._target.stat().st_size > 0, self._target.with_name(aside.name)
        replace_database(self._target, self._copy, aside=aside)
        if not there:
            # The lock has made it.
            aside.unlink()
        return aside if there else None

    def _prepare(self, progress: Progress) -> Restorable:
        name, manifest = self._source.name, self._source.manifest
        sha256 = self._copied(progress)
        if self._source.trusted and manifest is not None and manifest.sha256 == sha256 and not manifest.faults:
            # The very file that was verified when it was made.
            schema_version, rows = manifest.schema_version, manifest.row_counts
        else:
            faults = () if manifest is None else manifest.faults
            if manifest is not None and manifest.sha256 != sha256:
                faults = ("its SHA-256 is not that of its manifest", *faults)
            inspection = inspect(self._copy)
            schema_version, rows = inspection.schema_version, inspection.row_counts
            if faults := (*inspection.faults, *faults):
                raise StartupRefused(f"{name} is damaged ({faults[0]}); restore another backup")
        newest = migrations.load("sqlite")[-1][0]
        if schema_version > newest:
            raise StartupRefused(
                f"{name} was made by a newer server (schema {schema_version}, this one knows {newest}); "
                "restore it with that version"
            )
        now = count_rows(self._target)
        lost = (
            None
            if now is None
            else {table: count - rows.get(table, 0) for table, count in now.items() if count > rows.get(table, 0)}
        )
        return Restorable(manifest, rows, lost)

    def _copied(self, progress: Progress) -> str:
        """Copies the backup, and returns its SHA-256 in hexadecimal digits. The copy is durable."""
        size, needed = max(self._source.size, 1), self._source.needed
        free = shutil.disk_usage(self._copy.parent).free
        if free < needed:
            raise self._no_room(f"{needed:,} bytes are needed, and {free:,} are free")
        hashed, done, written, synced = hashlib.sha256(), 0, 0, 0
        syncing: Future[None] | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(self._copy, flags, 0o600), "wb", buffering=0) as copy, ThreadPoolExecutor(1) as syncer:

            def write(data: bytes) -> None:
                nonlocal written, synced, syncing
                hashed.update(data)
                _write(copy, data)
                written += len(data)
                if written - synced >= SYNC_BYTES:
                    if syncing is not None:
                        syncing.result()
                    syncing, synced = syncer.submit(os.fdatasync, copy.fileno()), written

            def step(count: int) -> None:
                nonlocal done
                done += count
                progress(done / size)

            try:
                self._source.read_into(write, step=step)
                if syncing is not None:
                    syncing.result()
                os.fsync(copy.fileno())
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise self._no_room(f"{written:,} bytes were written") from exc
        return hashed.hexdigest()

    def _no_room(self, about: str) -> StartupRefused:
        return StartupRefused(
            f"there is no room for {self._source.name} in {self._copy.parent}: {about}; free some space"
        )


def _write(file: io.FileIO, data: bytes) -> None:
    """Writes all of it: a disk that is nearly full takes a part. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
