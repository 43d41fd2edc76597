"""Where a directory's data is kept: on a volume, in memory, or in a container that the next deployment replaces."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from metamorphd.models.finding import Finding, failed, ok, warning

MOUNTS = Path("/proc/self/mountinfo")
MARKS_OF_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))
# The place of the mount point among the fields of a line.
POINT = 4
IN_MEMORY = {"tmpfs", "ramfs"}
LAYERED = {"overlay", "aufs", "fuse.fuse-overlayfs"}
MEND = "attach a volume (on Railway: `railway volume add -m /data`) and set DATABASE_PATH to a file on it"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: where it is, and the type of its file system."""

    point: str
    kind: str


def read_mounts(text: str) -> list[Mount]:
    """Returns the mounts in the form of /proc/self/mountinfo (proc(5)), in order. Lines that are none are left out."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) > POINT and kind:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[POINT])
            mounts.append(Mount(point, kind))
    return mounts


def mount_of(directory: Path, mounts: list[Mount]) -> Mount | None:
    """Returns the mount that a directory is on, or None if none is known. Of two at one place the later one counts."""
    real = os.path.realpath(directory)
    containing = [mount for mount in mounts if real == mount.point or real.startswith(mount.point.rstrip("/") + "/")]
    return max(reversed(containing), key=lambda mount: len(mount.point), default=None)


def volume(directory: Path, *, contained: bool) -> Finding | None:
    """Says whether data in a directory stays when the server is deployed again. None where the system does not say.

    `contained` is whether the environment is a container's; some containers are known without it.
    """
    try:
        mounts = read_mounts(MOUNTS.read_text())
    except (OSError, UnicodeDecodeError):
        return None
    mount = mount_of(directory, mounts)
    if mount is None:
        return None
    if mount.kind in IN_MEMORY:
        return failed("volume", f"{directory} is in memory ({mount.kind}), so a restart deletes all data", MEND)
    in_container = contained or any(mark.exists() for mark in MARKS_OF_CONTAINERS)
    if mount.kind in LAYERED or (mount.point == "/" and in_container):
        return warning(
            "volume", f"{directory} is on no mount of its own, so the next deployment of the container deletes it", MEND
        )
    return ok("volume", f"{directory} is on the file system mounted at {mount.point}")


def outside(mount: str, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Says which files, by the name of the setting that places them, are not on the volume that is mounted there."""
    for name, path in paths.items():
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(mount)):
            yield ok("volume", f"{name} is on the volume at {mount}")
        else:
            yield failed(
                "volume",
                f"Railway mounts the volume at {mount}, and {name} ({path}) is not on it, so the next deployment "
                "deletes what is there",
                f"mount the volume where {name} is, or set {name} to a path below {mount}",
            )
