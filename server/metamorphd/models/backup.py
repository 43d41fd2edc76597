"""Backups of the whole store."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Inspection:
    """The content of a copy of a store. `faults` say what is damaged; with any, the rest may be missing.

    `database_id` is the store's own, the same in all of its copies. Empty if it has none, as one of an earlier server.
    `log_count` is how many logs it has, and `log_heads` the digest of their ends, in hexadecimal digits, as
    `HeadsDigest` makes it: 0 and empty for one of an earlier server.
    """

    schema_version: int
    row_counts: Mapping[str, int]
    faults: tuple[str, ...] = ()
    database_id: str = ""
    log_count: int = 0
    log_heads: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A description of a backup, kept in a file beside it. Times are microseconds since the epoch.

    `begin_time` is when it was begun: all that was acknowledged before is in it. `create_time` is the moment whose
    state it has. `size` and `sha256`, in hexadecimal digits, are those of its file. `verify_time` is when it was last
    verified, and `faults` are what was found then. `database_id`, `log_count` and `log_heads` are of `Inspection`.
    `log_heads_timestamp` is a time stamp of `log_heads`, in base64, if there is one.
    """

    name: str
    begin_time: int
    create_time: int
    server_version: str
    size: int
    sha256: str
    schema_version: int
    row_counts: Mapping[str, int]
    verify_time: int
    faults: tuple[str, ...] = ()
    database_id: str = ""
    log_count: int = 0
    log_heads: str = ""
    log_heads_timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a backup off the machine, as its own manifest has it. Times are microseconds since the epoch.

    `name` is that of its object: the backup's, and suffixes that say how it was packed. `size` and `sha256` are those
    of the object, and `manifest` is of what it is once unpacked. `create_time` is when it was complete, `verify_time`
    when it was last read back, 0 for never, and `faults` are what was found then.
    """

    name: str
    size: int
    sha256: str
    create_time: int
    manifest: Manifest
    verify_time: int = 0
    faults: tuple[str, ...] = ()


class BackupState(StrEnum):
    """`UNKNOWN`: a file without a manifest, as another program makes them. `FAILED`: there is no file."""

    CREATING = "CREATING"
    READY = "READY"
    VERIFYING = "VERIFYING"
    DAMAGED = "DAMAGED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup. `progress` is the share of its creation or verification that is done, 1.0 if there is none.

    `size` is that of its file, 0 while it is created. `fault` says why it is DAMAGED or FAILED. `copy` is its copy off
    the machine, if there is one, at `copy_url`, and `copy_fault` what is wrong with it, or why there is none.
    `operation_id` is the operation that makes or verifies it, empty if neither goes on.
    """

    name: str
    state: BackupState
    size: int
    progress: float = 1.0
    manifest: Manifest | None = None
    fault: str = ""
    copy: Copy | None = None
    copy_url: str = ""
    copy_fault: str = ""
    operation_id: str = ""
