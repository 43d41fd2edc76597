"""The directory of backups, and what is known of each from its files alone."""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from metamorphd.durable import sync_directory
from metamorphd.errors import BackupNotFound
from metamorphd.models.backup import Backup, BackupState, Manifest

# The time is in UTC. Other programs leave out the time of day.
NAME = re.compile(r"metamorph-(\d{8})(?:_(\d{6}))?\.db")
MANIFEST = ".json"
# What is incomplete has a name that no pattern for backups matches.
PARTIAL = ".part"
DAY = 24 * 3600 * 1_000_000

_MANIFEST = TypeAdapter(Manifest)


def name_at(time: int) -> str:
    """Returns the name of a backup that is begun at a time, in microseconds since the epoch."""
    return f"metamorph-{datetime.fromtimestamp(time // 1_000_000, UTC):%Y%m%d_%H%M%S}.db"


def time_of(name: str) -> int:
    """Returns the time in a backup's name, in microseconds since the epoch. Raises BackupNotFound for another name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise BackupNotFound(name=name)
    try:
        moment = datetime.strptime("".join(match.groups("000000")) + "Z", "%Y%m%d%H%M%S%z")
    except ValueError:
        raise BackupNotFound(name=name) from None
    return int(moment.timestamp()) * 1_000_000


def latest_state(name: str, manifest: Manifest | None) -> int:
    """Returns the moment whose state a backup has. Without a manifest, it is one that is surely not before it.

    Raises BackupNotFound for another name.
    """
    # A name without the time of day is of the day's beginning, and one that is being made has what is stored now.
    return time_of(name) + DAY if manifest is None else manifest.create_time


class Directory:
    """The files of backups. Methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> list[str]:
        """Creates the directory, for this user only, and deletes what was left incomplete. Returns those names."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        leftovers = []
        for file in sorted(self.path.iterdir()):
            belongs = file.name.removesuffix(MANIFEST)
            orphan = file.name.endswith(MANIFEST) and NAME.fullmatch(belongs) and not (self.path / belongs).exists()
            if orphan or (PARTIAL in file.name and NAME.match(file.name)):
                file.unlink()
                leftovers.append(file.name)
        return leftovers

    def list_backups(self) -> list[Backup]:
        """Returns the complete backups, newest first."""
        return sorted(self._found(), key=lambda backup: time_of(backup.name), reverse=True)

    def _found(self) -> Iterator[Backup]:
        # A read-only server makes none, and has no directory.
        for file in self.path.glob("*"):
            if NAME.fullmatch(file.name):
                try:
                    yield self.get_backup(file.name)
                except BackupNotFound:
                    # No time, or just deleted.
                    continue

    def get_backup(self, name: str) -> Backup:
        """Returns a complete backup. Raises BackupNotFound."""
        time_of(name)
        try:
            size = (self.path / name).stat().st_size
        except FileNotFoundError:
            raise BackupNotFound(name=name) from None
        manifest = read_manifest(self.path / f"{name}{MANIFEST}")
        if manifest is None:
            return Backup(name, BackupState.UNKNOWN, size)
        faults = manifest.faults
        if size != manifest.size:
            faults = (f"the file has {size:,} bytes, not {manifest.size:,}", *faults)
        state = BackupState.DAMAGED if faults else BackupState.READY
        return Backup(name, state, size, manifest=manifest, fault="; ".join(faults))

    def partial(self, name: str) -> Path:
        """Returns where a backup is written until it is complete."""
        return self.path / f"{name}{PARTIAL}"

    def complete_backup(self, manifest: Manifest) -> None:
        """Gives a backup that is written its name. After a power failure, it is there with its manifest or not."""
        self.write_manifest(manifest)
        os.replace(self.partial(manifest.name), self.path / manifest.name)
        sync_directory(self.path)

    def write_manifest(self, manifest: Manifest) -> None:
        """Stores a manifest in place of the one that is there."""
        partial = self.path / f"{manifest.name}{MANIFEST}{PARTIAL}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path / f"{manifest.name}{MANIFEST}")
        sync_directory(self.path)

    def delete_backup(self, name: str) -> None:
        """Deletes a backup. Raises BackupNotFound."""
        backup = self.get_backup(name)
        # First, so that a manifest is never there for a file that another program makes.
        (self.path / backup.name).unlink()
        (self.path / f"{backup.name}{MANIFEST}").unlink(missing_ok=True)
        sync_directory(self.path)

    def expired_backups(self, *, now: int, days: float) -> list[str]:
        """Returns the names of the backups that are older, newest first, without those that are always kept."""
        backups = self.list_backups()
        good = [backup.manifest for backup in backups if backup.state is BackupState.READY and backup.manifest]
        kept = always_kept(good)
        return [backup.name for backup in backups if backup.name not in kept and is_old(backup.name, now, days=days)]


def always_kept(good: Iterable[Manifest]) -> set[str]:
    """Returns the names of the backups that are kept however old they are, of good ones, newest first.

    They are the newest one, and the newest one of each database: one that is new, after a loss, does not displace the
    backups of the one that was lost.
    """
    kept: dict[str, str] = {}
    for manifest in good:
        # Those of an earlier server do not say, and are taken for this database's.
        if manifest.database_id or not kept:
            kept.setdefault(manifest.database_id, manifest.name)
    return set(kept.values())


def is_old(name: str, now: int, *, days: float) -> bool:
    """Returns whether a backup is older than so many days. Raises BackupNotFound for another name."""
    return time_of(name) < now - int(days * DAY)


def read_manifest(path: Path) -> Manifest | None:
    """Returns a manifest, or None if it is missing or makes no sense."""
    try:
        return _MANIFEST.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
