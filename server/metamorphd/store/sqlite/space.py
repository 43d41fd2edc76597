"""Free space on the database's volume: whether the database may grow, and a reserve to delete from a full volume."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metamorphd.errors import StorageFull

MIB = 1024 * 1024
# Of the volume, for each of the two, if that is less.
SHARE = 16
LARGEST_FLOOR = 256 * MIB
LARGEST_BALLAST = 64 * MIB
# What is in the log may still make the database grow.
LARGEST_LOG = 64 * MIB
# A log of a few pages, its index, and a migration that adds tables.
OPENING_BYTES = MIB
# The log cannot fill within this time, about that of a batch. Asking releases the GIL, for which the writer then waits.
PLENTY_SECONDS = 0.01
RETRY_SECONDS = 30.0
# A write that failed this long after the ballast was released has met the volume as it was before.
RELEASE_SECONDS = 2.0

# Returns the bytes that are free within the database, less those by which its file will grow. It is called only if it
# matters.
Room = Callable[[], int]


class Volume(NamedTuple):
    """The bytes that are free on a volume, and the sizes of its ballast and of its floor."""

    free: int
    ballast: int
    floor: int

    @property
    def tight(self) -> bool:
        return self.free < min(self.ballast, self.floor) // 4


class Space:
    """The free space of a volume. Writes that make the database grow are refused when it is below a floor.

    What is below the floor is for running turns. A ballast file beside the database takes up space as long as there is
    more than enough. It is deleted when even deletions lack the space that they need in the write-ahead log.

    `floor_bytes` of None is 256 MiB, or a sixteenth of the volume if that is less. 0 is no floor, and no ballast.
    """

    def __init__(self, path: Path, *, floor_bytes: int | None) -> None:
        self._directory = path.parent
        self._ballast = Path(f"{path}-ballast")
        self._floor_bytes = floor_bytes
        self._lock = threading.Lock()
        self._released = self._plenty_until = float("-inf")

    @property
    def free_bytes(self) -> int:
        """Returns how much is free on the volume. Raises OSError if the volume fails, or the directory is missing."""
        return self._volume().free

    @property
    def total_bytes(self) -> int:
        """Returns the size of the volume. Raises OSError like `free_bytes`."""
        stated = os.statvfs(self._directory)
        return stated.f_blocks * stated.f_frsize

    def low(self, room: Room) -> bool:
        """Returns whether free space is below the floor. A volume that fails is not low: it refuses writes itself."""
        if self._floor_bytes == 0 or time.monotonic() < self._plenty_until:
            return False
        try:
            volume = self._volume()
        except OSError:
            return False
        # Space for the ballast is not for growth.
        if volume.free - volume.ballast >= volume.floor + LARGEST_LOG:
            self._plenty_until = time.monotonic() + PLENTY_SECONDS
            return False
        available = volume.free - (0 if self.reserved else volume.ballast)
        return volume.tight or available + room() < volume.floor

    def fits(self, directory: Path, size: int) -> bool:
        """Returns whether a file of a size fits in a directory, which may be on another volume, above the floor."""
        stated = os.statvfs(directory)
        return stated.f_bavail * stated.f_frsize >= size + self._floor(stated)

    @property
    def tight(self) -> bool:
        """Returns whether free space is too little for the log: a change takes it also where the database has room."""
        try:
            return self._volume().tight
        except OSError:
            return False

    def require(self, room: Room) -> None:
        """Raises StorageFull if free space is below the floor."""
        if self.low(room):
            raise StorageFull(retry_delay=RETRY_SECONDS)

    @property
    def reserved(self) -> bool:
        """Returns whether there is a ballast, so that a write which fails for lack of space can be repeated."""
        return self._ballast.exists()

    def prepare(self) -> None:
        """Makes room for opening the database, whose write-ahead log has an index on the volume. Blocks."""
        with contextlib.suppress(OSError):
            if self.free_bytes < OPENING_BYTES:
                self.release()

    def reserve(self, *, room: int) -> None:
        """Creates the ballast if it is missing and there is enough space. `room` is as for `low`.

        Deletes it where only the log lacks space, because the database has some, whose file does not shrink: nothing
        else would ever make room for the log. Blocks; raises nothing, since the volume may fail too.
        """
        with self._lock, contextlib.suppress(OSError):
            volume = self._volume()
            if volume.floor > 0 and not self.reserved and volume.free >= volume.floor + 2 * volume.ballast:
                self._create_ballast(volume.ballast)
            elif self.reserved and volume.tight and room >= volume.floor + volume.ballast:
                self._ballast.unlink()

    def release(self) -> bool:
        """Deletes the ballast after a write has failed. Returns whether that write may succeed now. Blocks."""
        with self._lock, contextlib.suppress(OSError):
            if self.reserved:
                self._ballast.unlink()
                self._released = time.monotonic()
        return time.monotonic() < self._released + RELEASE_SECONDS

    def _create_ballast(self, size: int) -> None:
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._ballast.unlink()
        finally:
            os.close(descriptor)

    def _volume(self) -> Volume:
        stated = os.statvfs(self._directory)
        share = stated.f_blocks * stated.f_frsize // SHARE
        return Volume(stated.f_bavail * stated.f_frsize, min(LARGEST_BALLAST, share), self._floor(stated))

    def _floor(self, stated: os.statvfs_result) -> int:
        share = stated.f_blocks * stated.f_frsize // SHARE
        return min(LARGEST_FLOOR, share) if self._floor_bytes is None else self._floor_bytes
