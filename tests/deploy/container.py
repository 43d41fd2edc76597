"""Containers without an engine: a directory as the root file system, entered in namespaces of its own.

What an engine would take from the base image is this machine's: /usr, /etc and a Python. Needs root, to mount.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import require

LINKS = ("bin", "sbin", "lib", "lib32", "lib64")
EMPTY = ("data", "dev", "opt", "proc", "root", "run", "tmp", "usr", "var", "local/bin", "local/lib")


@dataclass(frozen=True)
class Limits:
    """What a container is run with, as an engine's options say it. `volume` is mounted at /data."""

    user: int = 0
    read_only: bool = False
    no_capabilities: bool = False
    network: bool = True
    volume: Path | None = None
    # By the path in the container. Read only, unless it is a cache.
    mounts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Root:
    """A root file system, with /usr/local in `local`."""

    path: Path

    def inside(self, path: str) -> Path:
        """Returns where a path of the container is on this machine."""
        return self.path / path.removeprefix("/usr/").removeprefix("/")

    def command(self, argv: Sequence[str], *, workdir: str = "/", limits: Limits) -> list[str]:
        """Returns the command that runs another one in the container, as its first process."""
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if limits.network else ["--net"])]
        run = f"cd {shlex.quote(workdir)} && exec {shlex.join([*privileges(limits), *argv])}"
        script = "\n".join([*self._mounts(limits), f"exec chroot . /bin/sh -c {shlex.quote(run)}"])
        return ["unshare", *namespaces, "/bin/sh", "-ec", script]

    def _mounts(self, limits: Limits) -> list[str]:
        prefix = Path(sys.base_prefix)
        read_only = {"usr": Path("/usr"), **({} if prefix == Path("/usr") else {str(prefix)[1:]: prefix})}
        lines = [f"cd {self.path}", "mount --bind . .", f"cd {self.path}"]
        for point, source in read_only.items():
            lines += [f"mkdir -p {point}", f"mount --bind {source} {point}", f"mount -o remount,bind,ro {point}"]
        lines += ["mount --bind local usr/local", "mount --rbind /dev dev", "mount -t proc proc proc"]
        lines += ["mount -t tmpfs -o mode=1777 tmpfs tmp"]
        for point, source in limits.mounts.items():
            lines += [f"mkdir -p {point[1:]}", f"mount --bind {source} {point[1:]}"]
        if limits.volume is not None:
            lines.append(f"mount --bind {limits.volume} data")
        if limits.read_only:
            lines += ["mount -o remount,bind,ro usr/local", "mount -o remount,bind,ro ."]
        return lines


def privileges(limits: Limits) -> list[str]:
    """Returns the command that gives up what a container does not have."""
    options = []
    if limits.user:
        options += [f"--reuid={limits.user}", f"--regid={limits.user}", "--clear-groups"]
    if limits.no_capabilities:
        options += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", *options, "--"] if options else []


def new_root(path: Path) -> Root:
    """Returns a root file system with what this machine has of the base image: a shell, Python, certificates."""
    require("unshare", hint="apt-get install util-linux")
    for name in EMPTY:
        (path / name).mkdir(parents=True)
    for name in LINKS:
        if Path("/", name).is_symlink():
            (path / name).symlink_to(os.readlink(f"/{name}"))
    shutil.copytree("/etc", path / "etc", symlinks=True)
    version = f"python3.{sys.version_info.minor}"
    for name in ("bin/python", "bin/python3", f"bin/{version}", f"lib/{version}"):
        place = name if name.startswith("lib") else f"bin/{version}"
        (path / "local" / name).symlink_to(Path(sys.base_prefix, place))
    return Root(path)
