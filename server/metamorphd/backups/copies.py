"""Copies of backups off the machine: made after each backup, read back every day, kept as long as backups are."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from metamorphd.backups.bucket import Bucket, BucketFailed, Credentials
from metamorphd.backups.directory import DAY, Directory, is_old
from metamorphd.backups.ledger import LedgerFile
from metamorphd.backups.ledger_copy import LedgerCopy
from metamorphd.backups.packing import Packing, Unreadable, parse_keys
from metamorphd.backups.remote import Remote
from metamorphd.clock import Clock
from metamorphd.errors import StoreNotReady
from metamorphd.models.backup import Backup, BackupState, Copy, Manifest
from metamorphd.priority import lower_priority

# After the start, when a server has other things to do. Before, no copy is known.
FIRST_SECONDS = 20.0
LOOK_SECONDS = 3600.0
# Doubled with every failure in a row.
RETRY_SECONDS = 900.0
LONGEST_RETRY_SECONDS = 4 * 3600.0
# What the last request may take when the server stops.
STOP_SECONDS = 5.0

logger = structlog.get_logger(__name__)


def copies_in(
    url: str,
    *,
    credentials: Mapping[str, Any],
    keys: str,
    compressed: bool,
    directory: Path,
    ledger: LedgerFile,
    clock: Clock,
    retention_days: float,
) -> "Copies":
    """Returns the copies below an address. Raises StartupRefused if it, or a key, makes no sense."""
    return Copies(
        remote=Remote(Bucket(url, Credentials(**credentials))),
        packing=Packing(compressed=compressed, keys=parse_keys(keys)),
        directory=Directory(directory),
        ledger=ledger,
        clock=clock,
        retention_days=retention_days,
    )


def retry_delay(failures: int, *, first: float) -> float:
    """Returns the seconds until the next attempt after so many failures in a row: doubled each time, to a limit."""
    return min(first * 2.0 ** min(failures - 1, 100), LONGEST_RETRY_SECONDS)


class Copies:
    """Keeps copies of the newest backup, and of those before, in a bucket.

    Good backups that have no good copy are copied, newest first. Those older than `retention_days` are not, but for the
    newest, and their copies are deleted, but never the newest good one of a database. What fails is tried again, later
    each time.
    """

    def __init__(
        self,
        *,
        remote: Remote,
        packing: Packing,
        directory: Directory,
        ledger: LedgerFile,
        clock: Clock,
        retention_days: float,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._remote = remote
        self._packing = packing
        self._directory = directory
        self._ledger = LedgerCopy(file=ledger, remote=remote.ledger, directory=directory.path)
        self._clock = clock
        self._retention_days = retention_days
        self._retry_seconds = retry_seconds
        self._stopped = threading.Event()
        self._woken = asyncio.Event()
        self._known: dict[str, Copy] = {}
        # Why the copies of backups failed in the last round.
        self._faults: dict[str, str] = {}
        self._failures = 0

    async def __aenter__(self) -> Self:
        self._begun = self._clock.now()
        self._working = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await asyncio.wait({self._working})

    def stop(self) -> None:
        """Ends what goes on within STOP_SECONDS, for which leaving waits. May be called more than once."""
        # A second cancellation would end the wait for the first.
        if not self._stopped.is_set():
            self._stopped.set()
            self._working.cancel()

    def wake(self) -> None:
        """Begins a round now: there is a new backup."""
        self._woken.set()

    def url(self, copy: Copy) -> str:
        """Returns the address of a copy."""
        return self._remote.url(copy.name)

    def copy_of(self, name: str) -> tuple[Copy | None, str]:
        """Returns the copy of a backup, if there is one, and what is wrong with it or why there is none."""
        copy = self._known.get(name)
        if name in self._faults:
            return copy, self._faults[name]
        return copy, "" if copy is None else "; ".join(copy.faults)

    @property
    def newest_time(self) -> int:
        """Returns when the backup was made that the newest good copy is of, or when this was begun if none is known."""
        newest = self._newest_good()
        return self._begun if newest is None else newest.manifest.create_time

    @property
    def damaged(self) -> bool:
        """Whether the newest copy is damaged."""
        newest = max(self._known.values(), key=lambda copy: copy.manifest.create_time, default=None)
        return newest is not None and bool(newest.faults)

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read."""

        def newest(time_of: Callable[[Copy], int]) -> float:
            copy = self._newest_good()
            return 0.0 if copy is None else time_of(copy) / 1e6

        return {
            "metamorph_backup_copy_timestamp_seconds": (
                "When the backup was made that the newest good copy off the machine is of, 0 if none is known",
                lambda: newest(lambda copy: copy.manifest.create_time),
            ),
            "metamorph_backup_copy_verified_timestamp_seconds": (
                "When the newest good copy off the machine was read back, 0 if it never was",
                lambda: newest(lambda copy: copy.verify_time),
            ),
            "metamorph_backup_copy_failed": (
                "1 if the last attempt to copy or to read back failed",
                lambda: float(self._failures > 0),
            ),
        }

    def _newest_good(self) -> Copy | None:
        good = [copy for copy in self._known.values() if not copy.faults]
        return max(good, key=lambda copy: copy.manifest.create_time, default=None)

    async def _work(self) -> None:
        delay = FIRST_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._on_thread(self._round)
            except Exception:
                logger.exception("the copies of backups failed; retrying")
                self._failures += 1
            delay = retry_delay(self._failures, first=self._retry_seconds) if self._failures else LOOK_SECONDS

    def _round(self) -> None:
        """Copies, reads back and deletes what is due. Blocks."""
        faults: dict[str, str] = {}
        name = newest = next((backup.name for backup in self._good_backups()), "")
        try:
            self._ledger.send()
            copies, tried = self._look(), set[str]()
            while (backup := self._missing(copies, tried)) is not None:
                name = backup.name
                tried.add(name)
                try:
                    self._copy(backup)
                except Unreadable as exc:
                    # It is this one that is damaged.
                    faults[name] = str(exc)
                copies = self._look()
            name = newest
            whole = self._verify_due(copies)
            self._prune(self._look() if not whole else copies)
        except BucketFailed as exc:
            faults[name], whole = str(exc), False
        except (StoreNotReady, FileNotFoundError):
            # The server stops, or the backup was just deleted.
            return
        if self._stopped.is_set():
            return
        for name, fault in faults.items():
            logger.error("a backup could not be copied or read back", name=name, fault=fault)
        self._failures = 0 if whole and not faults else self._failures + 1
        self._faults = faults

    @property
    def manifests(self) -> list[Manifest]:
        """Returns those of the backups that have a copy, as far as is known."""
        return [copy.manifest for copy in self._known.values()]

    def _good_backups(self) -> list[Backup]:
        return [backup for backup in self._directory.list_backups() if backup.state is BackupState.READY]

    def _missing(self, copies: list[Copy], tried: set[str]) -> Backup | None:
        """Returns the newest good backup that has no good copy, should have one, and was not tried, or None."""
        copied = {copy.manifest.name for copy in copies if not copy.faults} | tried
        good, now = self._good_backups(), self._clock.now()
        for place, backup in enumerate(good):
            if backup.name not in copied and (place == 0 or not is_old(backup.name, now, days=self._retention_days)):
                return backup
        return None

    def _look(self) -> list[Copy]:
        copies = self._remote.list_copies()
        # Of two of a backup, packed differently, the good one.
        ordered = sorted(copies, key=lambda copy: not copy.faults)
        self._known = {copy.manifest.name: copy for copy in ordered}
        return copies

    def _copy(self, backup: Backup) -> None:
        if backup.manifest is None:
            return
        began, file = self._clock.now(), self._directory.path / backup.name
        copy = self._remote.write_copy(
            file, backup.manifest, packing=self._packing, now=self._clock.now, step=self._step
        )
        logger.info(
            "a backup was copied", url=self.url(copy), size=copy.size, duration=(self._clock.now() - began) / 1e6
        )

    def _verify_due(self, copies: list[Copy]) -> bool:
        """Reads the newest good copy back if none was for a day. Returns whether it is whole, or was not due."""
        newest = next((copy for copy in copies if not copy.faults), None)
        last = max((copy.verify_time for copy in copies), default=0)
        if newest is None or 0 <= self._clock.now() - last < DAY:
            return True
        verified = self._remote.verify_copy(newest, keys=self._packing.keys, now=self._clock.now, step=self._step)
        self._remote.write_manifest(verified)
        self._look()
        if verified.faults:
            logger.critical("a copy of a backup is damaged", url=self.url(verified), faults=verified.faults)
        else:
            logger.info("a copy of a backup was read back", url=self.url(verified))
        return not verified.faults

    def _prune(self, copies: list[Copy]) -> None:
        names = self._remote.prune_copies(copies, now=self._clock.now(), days=self._retention_days)
        if names:
            self._look()
            logger.info("old copies of backups were deleted", names=names)

    def _step(self, _: int) -> None:
        if self._stopped.is_set():
            raise StoreNotReady(retry_delay=None)

    async def _on_thread(self, work: Callable[[], None]) -> None:
        """Runs work on a thread that does not keep a server from stopping: a bucket may not answer for minutes."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(exc: BaseException | None) -> None:
            if done.done():
                return
            if exc is None:
                done.set_result(None)
            else:
                done.set_exception(exc)

        def run() -> None:
            lower_priority()
            failed: BaseException | None = None
            try:
                work()
            except BaseException as exc:
                failed = exc
            with contextlib.suppress(RuntimeError):
                # The loop may be closed.
                loop.call_soon_threadsafe(settle, failed)

        thread = threading.Thread(target=run, name="backup-copy", daemon=True)
        thread.start()
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done}, timeout=STOP_SECONDS)
            raise
