"""Faults of backups and restores."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import apsw
from metamorphd.backups import restore
from metamorphd.models.backup import Inspection
from metamorphd.store import migrations
from metamorphd.store.sqlite import file, replacement
from metamorphd.store.sqlite.copying import Copying
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.gaps import PAGE_BYTES

from harness.mutants import Patch, mutant

# Figures that show several of them.
LOST = "acknowledged rows missing from a backup begun after them"
MIXED = "backups that are not of one moment"
UNSERVED = "restored databases that a server does not serve as they were"
NEITHER = "databases that are neither the old nor the new one"
LEFT = "files that an interrupted restore leaves for good"
UNSTARTED = "databases with which no server starts"
LATER_SECONDS = 0.1
PIECE_SECONDS = 0.05


@mutant("backup-is-a-file-copy", harness="backups", shown_by={LOST})
def _backup_is_a_file_copy(patch: Patch) -> None:
    """Without the write-ahead log, as by `cp` beside a running server."""

    def copying(self: Copying, descriptor: int, progress: Any) -> None:
        self._path.write_bytes(_database_of(self).read_bytes())
        _without_log(self._path)

    patch(Copying, "_copy", copying)


@mutant("backup-of-two-moments", harness="backups", shown_by={LOST, MIXED, UNSERVED})
def _backup_of_two_moments(patch: Patch) -> None:
    """Pages that change once they are copied are not copied again, and nobody looks."""
    copy = Copying._copy

    def copying(self: Copying, descriptor: int, progress: Any) -> None:
        copy(self, descriptor, progress)
        early = self._path.read_bytes()
        time.sleep(LATER_SECONDS)
        copy(self, descriptor, progress)
        pages = bytearray(self._path.read_bytes())
        for begin in range(0, len(early), 2 * PAGE_BYTES):
            pages[begin : begin + PAGE_BYTES] = early[begin : begin + PAGE_BYTES]
        self._path.write_bytes(pages)

    def believe(self: SqliteDatabase, path: Path, /, *, stopped: threading.Event) -> Inspection:
        return Inspection(migrations.load("sqlite")[-1][0], {}, ())

    patch(Copying, "_copy", copying)
    patch(SqliteDatabase, "inspect", believe)


@mutant("backup-of-an-old-snapshot", harness="backups", shown_by={LOST})
def _backup_of_an_old_snapshot(patch: Patch) -> None:
    """It is begun before it is asked for."""
    snapshots: list[apsw.Connection] = []

    def copying(self: Copying, descriptor: int, progress: Any) -> None:
        snapshots.append(_snapshot(_database_of(self)))
        destination = apsw.Connection(str(self._path))
        with destination.backup("main", snapshots[0], "main") as backup:
            backup.step(-1)
        destination.close()
        _without_log(self._path)
        if len(snapshots) > 1:
            snapshots.pop(0).close()

    patch(Copying, "_copy", copying)


def _database_of(copying: Copying) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{copying._gaps.file}"))


def _snapshot(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("BEGIN").fetchall()
    connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchall()
    return connection


def _without_log(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    connection.close()


@mutant("old-log-stays", harness="restores", shown_by={NEITHER, UNSTARTED}, whole=6, kills=0, interrupts=0)
def _old_log_stays(patch: Patch) -> None:
    """The write-ahead log of the database before is left beside the restored one."""
    patch(replacement, "MOVED", ("",))
    # Counting empties the log, if it can read the database.
    patch(restore, "count_rows", lambda _: None)


@mutant("restore-is-left-unfinished", harness="restores", shown_by={NEITHER, UNSTARTED, LEFT}, whole=0, kills=12)
def _restore_is_left_unfinished(patch: Patch) -> None:
    """The next start, or restore, does not complete what was begun."""
    finish = replacement.finish_replacement

    def leave(path: Path) -> bool:
        return not Path(f"{path}-replacing").exists() and finish(path)

    patch(restore, "finish_replacement", leave)
    patch(file, "finish_replacement", leave)


@mutant("restored-in-place", harness="restores", shown_by={NEITHER, UNSTARTED}, whole=1, kills=20, interrupts=0)
def _restored_in_place(patch: Patch) -> None:
    """The backup is written over the database."""

    def overwrite(path: Path, new: Path, *, aside: Path) -> None:
        shutil.copyfile(path, aside)
        with new.open("rb") as backup, path.open("r+b") as over:
            while piece := backup.read(64 * PAGE_BYTES):
                over.write(piece)
                over.flush()
                time.sleep(PIECE_SECONDS)
            over.truncate()

    patch(restore, "replace_database", overwrite)


@mutant(
    "interrupted-copy-is-deleted",
    harness="restores",
    shown_by={NEITHER, UNSTARTED},
    whole=0,
    kills=0,
    interrupts=40,
    at_a_point=1,
)
def _interrupted_copy_is_deleted(patch: Patch) -> None:
    """Ctrl-C takes away what the next start completes the restore with."""

    def delete(path: Path) -> None:
        replacement.copy_beside(path).unlink(missing_ok=True)

    patch(restore, "abandon_copy", delete)
