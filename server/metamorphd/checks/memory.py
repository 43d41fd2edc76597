"""The memory of the server's control group: what it may use and needs, and whether the kernel has killed for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metamorphd.models.finding import Finding, failed, ok, warning

# Without what requests take up: the program, and the caches of the database.
BASE_BYTES = 256 * 1024 * 1024
MIB = 1024 * 1024
# Above it, the kernel is about to kill.
NEARLY = 0.9
# What version 1 shows for no limit is near this.
UNLIMITED = 2**60
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEND = "give the container more memory, or lower MAX_BYTES_IN_FLIGHT and MAX_VAULT_BYTES_IN_FLIGHT"


@dataclass(frozen=True, slots=True)
class Memory:
    """The lowest limit that is in force, in bytes, or None; what is in use of it; how many processes were killed."""

    limit: int | None = None
    used: int = 0
    kills: int = 0


def read_memory() -> Memory:
    """Returns the memory of this process's control group (cgroups(7)), of either version."""
    try:
        groups = OWN_GROUPS.read_text()
    except (OSError, UnicodeDecodeError):
        return Memory()
    for line in groups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "total_inactive_file")
            return _lowest(GROUPS / "memory", path, names)
        if controllers == "" and (GROUPS / "cgroup.controllers").exists():
            return _lowest(GROUPS, path, ("memory.max", "memory.current", "memory.events", "inactive_file"))
    return Memory()


def memory(found: Memory, *, needed: int) -> Iterator[Finding]:
    """Says whether there is enough memory. `needed` is what large requests and prompts may take up, in bytes."""
    if found.kills:
        yield failed("memory", f"the kernel has killed {found.kills} processes here for lack of memory", MEND)
    if found.limit is None:
        return
    if found.used > found.limit * NEARLY:
        yield warning("memory", f"{found.used // MIB:,} of {found.limit // MIB:,} MiB are in use", MEND)
    elif found.limit < BASE_BYTES + needed:
        yield warning(
            "memory",
            f"the limit is {found.limit // MIB:,} MiB, and with large requests the server may need "
            f"{(BASE_BYTES + needed) // MIB:,} MiB",
            MEND,
        )
    elif not found.kills:
        yield ok("memory", f"{found.used // MIB:,} of {found.limit // MIB:,} MiB are in use")


def _lowest(root: Path, path: str, names: tuple[str, str, str, str]) -> Memory:
    """Returns the memory of the group with the lowest limit among a group and those around it."""
    group = root / path.lstrip("/")
    # Within a container, the path may be that outside of it.
    places = [place for place in (group, *group.parents) if place.is_relative_to(root) and place.is_dir()]
    limit_name, used_name, kills_name, inactive = names
    lowest = Memory()
    for place in places:
        limit = _number(place / limit_name)
        if limit is not None and limit < UNLIMITED and (lowest.limit is None or limit < lowest.limit):
            # The kernel takes these pages back before it kills.
            used = (_number(place / used_name) or 0) - (_number(place / "memory.stat", inactive) or 0)
            kills = _number(place / kills_name, "oom_kill") or 0
            lowest = Memory(limit, max(0, used), kills)
    return lowest


def _number(file: Path, name: str = "") -> int | None:
    """Returns the number in a file, or the one after a name on a line of its own. None if there is none."""
    try:
        match = re.search(rf"^{name} ?(\d+)$", file.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return None if match is None else int(match[1])
